"""Values of settings, checked against the type of their field, whether they come from the command line, TOML or Python."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from selfcluster.errors import ConfigError, known


def check_value(name: str, value: Any, kind: Any) -> Any:
    """Return a value from TOML or Python as this type. A list is accepted for a tuple, 1 for 1.0 and 30 for (30,).

    Raises:
        ConfigError: the value is of another type.
    """
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return known(value, parts, name)
    if kind == tuple[int, ...] and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return (int(value),)
    if get_origin(kind) is tuple and isinstance(value, list | tuple) and (parts[-1] is Ellipsis or len(value) == len(parts)):
        return tuple(check_value(name, part, parts[0]) for part in value)
    if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    if kind in (bool, str) and type(value) is kind:
        return value
    raise ConfigError(f"{name} {value!r} must be {describe(kind)}")


def from_words(flag: str, words: Sequence[str], kind: Any) -> Any:
    """Return the value that the words after a flag stand for.

    Raises:
        ConfigError: the words do not fit the type.
    """
    if get_origin(kind) is tuple:
        part = get_args(kind)[0]
        width = len(get_args(part)) if get_origin(part) is tuple else 1
        values = [from_words(flag, words[start : start + width], part) for start in range(0, len(words), width)]
        if get_args(kind)[-1] is Ellipsis or len(values) == len(get_args(kind)):
            return tuple(values)
    elif len(words) == 1:
        for option in _options(kind):
            if option is bool:
                if words[0] == "true":
                    return True
            elif get_origin(option) is not Literal:
                with contextlib.suppress(ValueError):
                    return option(words[0])
            elif words[0] in get_args(option):
                return words[0]
        if get_origin(kind) is Literal:
            known(words[0], get_args(kind), flag)
    hint = "; write positional arguments before the flags" if len(words) > 1 else ""
    raise ConfigError(f"{flag} {' '.join(words)!r} must be {describe(kind)}{hint}")


def describe(kind: Any) -> str:
    """Return what a value of this type is called in a message, such as "a whole number"."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        many = {int: "whole numbers", float: "numbers", tuple[float, float]: "pairs of numbers"}.get(get_args(kind)[0], "words")
        return many if get_args(kind)[-1] is Ellipsis else f"{len(get_args(kind))} {many}"
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    return " or ".join(describe(part) if get_origin(part) else names.get(part, "text") for part in _options(kind))


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, without None."""
    return tuple(part for part in get_args(kind) if part is not NoneType) if get_origin(kind) in (Union, UnionType) else (kind,)
