"""Scripts by which a shell completes commands, flags and values. They hold all words, so that no completion starts Python."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from selfcluster.errors import known
from selfcluster.settings.config import AUGMENTATIONS, METHOD_SETTINGS, default_config, groups
from selfcluster.settings.parser import whole_parser
from selfcluster.settings.presets import PRESETS

SHELLS = ("bash", "zsh", "fish")
EXPORT_FORMATS = ("timm", "torchvision", "onnx", "hub", "whole")
_NAMES = {
    "augmentation": tuple(AUGMENTATIONS),
    "device": ("auto", "cpu", "cuda", "mps"),
    "format": EXPORT_FORMATS,
    "method": tuple(METHOD_SETTINGS),
    "preset": tuple(PRESETS),
    "shell": SHELLS,
}
"""Values of arguments whose type is any text."""
_PATHS = frozenset(["beside", "config", "copy_to", "encoder", "file", "images", "init", "labels", "names", "out", "run", "test"])


def script(shell: str, commands: Mapping[str, type]) -> str:
    """Return the script for a shell.

    Args:
        shell: bash, zsh or fish.
        commands: the dataclass of the arguments of each command.
    Raises:
        ConfigError: another shell.
    """
    import shtab

    known(shell, SHELLS, "shell")
    root = ArgumentParser("selfcluster")
    root.add_argument("-V", "--version", action="store_true", help="Print the version.")
    subparsers = root.add_subparsers()
    for name, kind in commands.items():
        parser = whole_parser(name, kind)
        hints = _hints(kind)
        for action in parser._actions:
            if action.dest in _PATHS:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            elif words := _NAMES.get(action.dest) or _words(hints.get(action.dest)):
                action.choices = words
        summary = (parser.description or "").partition(":")[0]
        subparsers.add_parser(name, parents=[parser], add_help=False, description=summary, help=summary)
    return shtab.complete(root, shell)


def _hints(kind: type) -> dict[str, Any]:
    """Return the type of each argument of a command, and of each setting of every method."""
    settings = [type(group) for method in METHOD_SETTINGS for group in groups(default_config(method)).values()]
    return {name: hint for group in [*settings, kind] for name, hint in get_type_hints(group).items()}


def _words(hint: Any) -> tuple[str, ...]:
    """Return the words that a type allows."""
    return get_args(hint) if get_origin(hint) is Literal else tuple(word for part in get_args(hint) for word in _words(part))
