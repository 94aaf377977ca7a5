"""Combine defaults < recipe < preset < TOML file < flags into one config, and record where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfcluster.errors import ConfigError, known
from selfcluster.settings.config import AUGMENTATIONS, CHANGEABLE_ON_RESUME, DEFAULT_METHOD, Config, default_config, flatten, replace
from selfcluster.settings.presets import PRESETS, method_of
from selfcluster.settings.recipe import Facts, recipe
from selfcluster.settings.validation import check, check_values


@dataclass(frozen=True)
class ResolvedConfig:
    """A config, and where the value of each setting came from."""

    config: Config[Any]
    origins: dict[str, str]


def method_for(method: str | None, preset: str | None, top: Mapping[str, Any]) -> str:
    """Return the method that is meant: the one that was named, that of the preset, that of the TOML file, or the default.

    Args:
        method, preset: as given, or None.
        top: top-level values of the TOML file, from `read_toml`; empty if there is none.
    """
    if preset := preset or top.get("preset"):
        return method or method_of(preset)
    return method or top.get("method", DEFAULT_METHOD)


def resolve(
    method: str,
    facts: Facts,
    *,
    preset: str | None = None,
    augmentation: str | None = None,
    file: Mapping[str, Any],
    flags: Mapping[str, Any],
) -> ResolvedConfig:
    """Return the config of a new run.

    Args:
        method: its name.
        facts: what the recipe knows about the images.
        preset: name of a preset, or None for the recipe.
        augmentation: name of a set of augmentation strengths, or None for that of the preset or recipe.
        file: settings of a TOML file by flat name, from `read_toml`.
        flags: settings given one by one, by flat name.
    Raises:
        ConfigError: an unknown name or a wrong value.
    """
    config = default_config(method)
    given = {**file, **flags}
    check_values(replace(config, given))
    if augmentation is not None:
        known(augmentation, AUGMENTATIONS, "augmentation")
    origins = dict.fromkeys(flatten(config), "default")
    if preset is None:
        advice = recipe(facts, replace(config, given), given, augmentation)
        config = replace(config, {name: choice.value for name, choice in advice.items()})
        origins |= {name: f"recipe: {choice.reason}" for name, choice in advice.items()}
    else:
        config = PRESETS[known(preset, PRESETS, "preset")]()
        if config.method != method:
            raise ConfigError(
                f"preset {preset!r} is for the method {config.method!r}, not {method!r}; leave --method out or choose another preset"
            )
        origins = dict.fromkeys(origins, f"preset {preset}")
        if augmentation is not None:
            strengths = vars(AUGMENTATIONS[augmentation])
            config = replace(config, strengths)
            origins |= dict.fromkeys(strengths, f"augmentation {augmentation}")
    config = replace(config, given)
    origins |= dict.fromkeys(file, "config file") | dict.fromkeys(flags, "flag")
    check(config)
    return ResolvedConfig(config, origins)


def resumed(stored: Config[Any], flags: Mapping[str, Any]) -> Config[Any]:
    """Return the config of a resumed run: its own, except for settings that do not make it another run.

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
