"""One config from everything that has a say: defaults < recipe < preset < TOML file < flags. Each value keeps where it came from."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcluster.config import (
    AUGMENTATIONS,
    CHANGEABLE_ON_RESUME,
    Config,
    check,
    check_values,
    default_config,
    flatten,
    groups,
    known,
    replace,
)
from selfcluster.errors import ConfigError
from selfcluster.presets import PRESETS
from selfcluster.recipe import Facts, recipe


@dataclass(frozen=True)
class Resolved:
    """A config, and for each setting where its value came from."""

    config: Config[Any]
    origins: dict[str, str]


def resolve(method: str, facts: Facts, *, preset: str | None, file: Mapping[str, Any], flags: Mapping[str, Any]) -> Resolved:
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
    return Resolved(config, origins)


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


def read_toml(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Top-level values, and settings by flat name, of a TOML file with one table a group of settings.

    Raises:
        ConfigError: it cannot be read, or holds what no method knows.
    """
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {str(file)!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {str(file)!r} is not TOML: {error}") from None
    top = {key: value for key, value in content.items() if not isinstance(value, dict)}
    by_group = {name: flatten_group for name, flatten_group in groups(default_config(top.get("method", "swav"))).items()}
    settings: dict[str, Any] = {}
    for group, values in content.items():
        if isinstance(values, dict):
            known(group, by_group, f"table in {str(file)!r}:")
            for name in values:
                known(name, vars(by_group[group]), f"setting in [{group}] of {str(file)!r}:")
            settings |= values
    for name in top:
        known(name, ("method", "images", "preset"), f"key in {str(file)!r}:")
    return top, settings


def to_toml(resolved: Resolved, images: str) -> str:
    """The config as TOML, with the origin of each value behind it."""
    lines = [f"method = {json.dumps(resolved.config.method)}", f"images = {_toml(images)}"]
    for name, group in groups(resolved.config).items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}  # {resolved.origins[key]}" for key, value in vars(group).items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's strings, numbers and booleans are TOML's.
    return json.dumps(value, ensure_ascii=False)
