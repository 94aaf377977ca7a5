"""Combine defaults < recipe < preset < TOML file < flags into one config, and record where each value came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcluster.errors import ConfigError, known
from selfcluster.settings.adapting import METHOD as METHOD_THAT_ADAPTS
from selfcluster.settings.choices import Facts
from selfcluster.settings.config import (
    AUGMENTATIONS,
    CHANGEABLE_ON_RESUME,
    DEFAULT_METHOD,
    METHOD_SETTINGS,
    Config,
    default_config,
    flatten,
    replace,
)
from selfcluster.settings.presets import PRESETS, method_of
from selfcluster.settings.recipe import recipe
from selfcluster.settings.toml import SettingsFile, read_toml
from selfcluster.settings.validation import check, check_values


@dataclass(frozen=True)
class ResolvedConfig:
    """A config, and where the value of each setting came from."""

    config: Config[Any]
    origins: dict[str, str]


@dataclass(frozen=True)
class Profile:
    """What the settings of a new run start from."""

    method: str
    preset: str | None = None
    """Published experiment; None for the recipe."""
    augmentation: str | None = None
    """Set of augmentation strengths; None for that of the preset or recipe."""


def profile_of(method: str | None, preset: str | None, augmentation: str | None, file: SettingsFile, init: str = "random") -> Profile:
    """Return the profile of a new run: as given, or else as in the TOML file.

    The default method is that of the preset, or the one that adapts weights if `init` names some from other images, or swav.

    Raises:
        ConfigError: an unknown name, or a preset of another method.
    """
    preset, augmentation, method = preset or file.preset, augmentation or file.augmentation, method or (None if preset else file.method)
    if augmentation is not None:
        known(augmentation, AUGMENTATIONS, "augmentation")
    if preset is None:
        default = METHOD_THAT_ADAPTS if adapts(init) and not file.settings else DEFAULT_METHOD
        return Profile(known(method or default, METHOD_SETTINGS, "method"), None, augmentation)
    of_preset = method_of(preset)
    if method not in (None, of_preset):
        raise ConfigError(f"preset {preset!r} is for the method {of_preset!r}, not {method!r}; leave --method out or choose another preset")
    return Profile(of_preset, preset, augmentation)


def adapts(init: str) -> bool:
    """Return whether initial weights were trained on other images: pretrained ones, those of a folder of timm's, or of an explored run.

    A file of weights, or a run that was trained, may go on with the same images.
    """
    path = Path(init).expanduser()
    if (file := path / "config.toml").is_file():
        return read_toml(file).method == "explore"
    return init != "random" and (not path.exists() or (path / "config.json").is_file())


def resolve(profile: Profile, facts: Facts, *, file: Mapping[str, Any], flags: Mapping[str, Any]) -> ResolvedConfig:
    """Return the config of a new run.

    Args:
        profile: method, preset and augmentation.
        facts: what the recipe knows about the images.
        file: settings of a TOML file by flat name.
        flags: settings given one by one, by flat name.
    Raises:
        ConfigError: an unknown name or a wrong value.
    """
    config, given = default_config(profile.method), {**file, **flags}
    check_values(replace(config, given))
    origins = dict.fromkeys(flatten(config), "default")
    strengths = vars(AUGMENTATIONS[profile.augmentation]) if profile.augmentation else {}
    if profile.preset is None:
        chosen = replace(config, given)
        advice = recipe(dataclasses.replace(facts, adapts=adapts(chosen.model.init)), chosen, given, profile.augmentation)
        config = replace(config, {name: choice.value for name, choice in advice.items()})
        origins |= {name: choice.reason if name in strengths else f"recipe: {choice.reason}" for name, choice in advice.items()}
    else:
        config = replace(PRESETS[profile.preset](), strengths)
        origins = dict.fromkeys(origins, f"preset {profile.preset}") | dict.fromkeys(strengths, f"augmentation {profile.augmentation}")
    config = replace(config, given)
    origins |= dict.fromkeys(file, "config file") | dict.fromkeys(flags, "flag")
    check(config)
    return ResolvedConfig(config, origins)


def resumed_config(stored: Config[Any], flags: Mapping[str, Any]) -> Config[Any]:
    """Return the config of a resumed run, with the changes that are allowed on resume.

    Raises:
        ConfigError: a flag that would; the message names the setting and both values.
    """
    config = replace(stored, flags)
    wanted, stored_values = flatten(config), flatten(stored)
    for name in flags:
        if wanted[name] != stored_values[name] and name not in CHANGEABLE_ON_RESUME:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"cannot resume with {name} {wanted[name]!r}: this run has {stored_values[name]!r}; leave {flag} out, or start a new run"
            )
    check(config)
    return config
