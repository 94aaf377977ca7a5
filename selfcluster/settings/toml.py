"""Read settings from TOML files, and write the config.toml of a run."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcluster.errors import ConfigError, known
from selfcluster.settings.config import DEFAULT_METHOD, Config, default_config, groups

_REMOVED = {
    "collapse_steps": 200,
    "collapse_entropy": 0.98,
    "collapse_embedding": 0.95,
    "channels_last": True,
    "mass_tolerance": 0.01,
    "max_iterations": 1000,
    "queue_growth_epochs": 1.0,
    "warmup_lr": None,
    "log_seconds": None,
}
"""Settings of earlier versions with the value that is always used now; None if it depends on other settings."""


@dataclass(frozen=True)
class SettingsFile:
    """The content of a TOML file; what it does not contain is None."""

    settings: Mapping[str, Any]
    """Settings by flat name, without those that have been removed."""
    method: str | None = None
    images: str | None = None
    """Location of the images; "" for an array, or if it is not known."""
    preset: str | None = None
    augmentation: str | None = None
    warnings: tuple[str, ...] = ()
    """About removed settings for which the file has another value than the one that is always used now."""


def read_toml(file: Path) -> SettingsFile:
    """Read a TOML file of settings, with one table for each group.

    Raises:
        ConfigError: the file cannot be read, or contains an unknown name.
    """
    try:
        content = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config {str(file)!r}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not TOML, not text, or nested without end
        raise ConfigError(f"config {str(file)!r} is not TOML: {error}") from None
    top = {key: value for key, value in content.items() if not isinstance(value, dict)}
    by_group = groups(default_config(top.get("method", DEFAULT_METHOD)))
    for name in top:
        known(name, ("method", "images", "preset", "augmentation"), f"key in {str(file)!r}:")
    settings: dict[str, Any] = {}
    removed: dict[str, Any] = {}
    for group, values in content.items():
        if not isinstance(values, dict):
            continue
        known(group, by_group, f"table in {str(file)!r}:")
        if group == "crops" and "augmentation" in values:  # written there by earlier versions
            top.setdefault("augmentation", values.pop("augmentation"))
        removed |= {name: values.pop(name) for name in sorted(values.keys() & _REMOVED.keys())}
        for name in values:
            known(name, vars(by_group[group]), f"setting in [{group}] of {str(file)!r}:")
        settings |= values
    used = _REMOVED | ({"warmup_lr": settings["lr"] / 16} if settings.get("warmup_epochs") and "lr" in settings else {})
    warnings = tuple(
        f"{file}: {name} is no longer a setting; its value {_toml(value)} is ignored, and {_toml(used[name])} is used"
        for name, value in removed.items()
        if used[name] not in (None, value)
    )
    return SettingsFile(settings, warnings=warnings, **top)


def to_toml(config: Config[Any], origins: Mapping[str, str], **top: str) -> str:
    """Return the config as TOML, with the origin of each value as a comment.

    Args:
        config: every setting.
        origins: where each value came from, by flat name.
        top: further values for the top of the file, such as images.
    """
    lines = [f"{key} = {_toml(value)}" for key, value in {"method": config.method, **top}.items()]
    for name, group in groups(config).items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_toml(value)}  # {origins[key]}" for key, value in vars(group).items()]
    return "\n".join(lines) + "\n"


def read_origins(file: Path, config: Config[Any]) -> dict[str, str]:
    """Return where each value in the config.toml of a run came from; "default" where the file does not say."""
    written = dict(re.findall(r"^(\w+) = .*  # (.*)$", file.read_text("utf-8"), flags=re.MULTILINE))
    return {key: written.get(key, "default") for group in groups(config).values() for key in vars(group)}


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    # TOML's strings, numbers and booleans are those of JSON.
    return json.dumps(value, ensure_ascii=False)
