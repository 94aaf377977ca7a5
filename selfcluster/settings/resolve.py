"""One config from everything that has a say: defaults < recipe < preset < TOML file < flags. Each value keeps where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfcluster.errors import ConfigError, known
from selfcluster.settings.config import AUGMENTATIONS, CHANGEABLE_ON_RESUME, Config, default_config, flatten, replace
from selfcluster.settings.presets import PRESETS
from selfcluster.settings.recipe import Facts, recipe
from selfcluster.settings.validation import check, check_values


@dataclass(frozen=True)
class ResolvedConfig:
    """A config, and for each setting where its value came from."""

    config: Config[Any]
    origins: dict[str, str]


def resolve(method: str, facts: Facts, *, preset: str | None, file: Mapping[str, Any], flags: Mapping[str, Any]) -> ResolvedConfig:
    """The config of a new run.

    Args:
        method: its name.
        facts: of the images, for the recipe.
        preset: name of a preset, or None.
        file: settings of a TOML file by flat name, from `read_toml`.
        flags: settings given one by one, by flat name.
    Raises:
        ConfigError: a name or value that cannot be.
    """
    config = default_config(method)
    given = {**file, **flags}
    check_values(replace(config, given))
    origins = dict.fromkeys(flatten(config), "default")
    if preset is not None:
        config = PRESETS[known(preset, PRESETS, "preset")]()
        if config.method != method:
            raise ConfigError(
                f"preset {preset!r} is for the method {config.method!r}, not {method!r}; leave --method out or choose another preset"
            )
        origins = dict.fromkeys(origins, f"preset {preset}")
        if "augmentation" in given:
            strengths = vars(AUGMENTATIONS[known(given["augmentation"], AUGMENTATIONS, "augmentation")])
            config = replace(config, strengths)
            origins |= dict.fromkeys(strengths, f"augmentation {given['augmentation']}")
    else:
        advice = recipe(facts, replace(config, given), given)
        config = replace(config, {name: choice.value for name, choice in advice.items() if name not in given})
        origins |= {name: f"recipe: {choice.reason}" for name, choice in advice.items()}
    config = replace(config, given)
    origins |= dict.fromkeys(file, "config file") | dict.fromkeys(flags, "flag")
    check(config)
    return ResolvedConfig(config, origins)


def resumed(stored: Config[Any], flags: Mapping[str, Any]) -> Config[Any]:
    """The config that a run goes on with: its own, but for settings that do not make it another run.

    Raises:
        ConfigError: a flag that would (the setting and both values are named).
    """
    wanted, have = flatten(replace(stored, dict(flags))), flatten(stored)
    for name in flags:
        if wanted[name] != have[name] and name not in CHANGEABLE_ON_RESUME:
            raise ConfigError(
                f"cannot resume with {name} {wanted[name]!r}: this run has {have[name]!r}; leave --{name.replace('_', '-')} out, or start a new run"
            )
    config = replace(stored, dict(flags))
    check(config)
    return config
