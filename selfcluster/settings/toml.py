"""Settings as a TOML file, read and written; no torch here, since the command line reads the file before anything else."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfcluster.errors import ConfigError, known
from selfcluster.settings.config import DEFAULT_METHOD, Config, default_config, groups


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
    by_group = {name: flatten_group for name, flatten_group in groups(default_config(top.get("method", DEFAULT_METHOD))).items()}
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


def to_toml(config: Config[Any], origins: Mapping[str, str], images: str) -> str:
    """The config as TOML, with the origin of each value behind it."""
    lines = [f"method = {json.dumps(config.method)}", f"images = {_toml(images)}"]
    for name, group in groups(config).items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}  # {origins[key]}" for key, value in vars(group).items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's strings, numbers and booleans are TOML's.
    return json.dumps(value, ensure_ascii=False)
