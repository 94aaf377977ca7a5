"""Command-line parsers made from dataclasses; every flag is read once, into the field of its name."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from selfcluster.errors import ConfigError, known
from selfcluster.settings.choices import Facts
from selfcluster.settings.commands import Train
from selfcluster.settings.config import METHOD_SETTINGS, Config, check_method_has, default_config, groups
from selfcluster.settings.recipe import recipe
from selfcluster.settings.resolve import profile_of
from selfcluster.settings.toml import SettingsFile, read_toml
from selfcluster.settings.values import from_words

Command = TypeVar("Command")


def parse(name: str, kind: type[Command], words: Sequence[str]) -> Command:
    """Read the arguments of a command; print its help and exit if they ask for it.

    Raises:
        ConfigError: an unknown or missing argument, or a wrong value.
    """
    parser = _Parser(name, kind)
    given, unknown = parser.split(words)
    if given.pop("help", False):
        parser.exit_with_help()
    _check_unknown(unknown, parser)
    return _filled(kind, given)


def parse_train(words: Sequence[str]) -> Train:
    """Read the arguments of `train`, whose settings depend on the method; print the help of that method and exit if they ask for it.

    Raises:
        ConfigError: an unknown argument, a setting of another method, or a wrong value.
    """
    given, unknown = whole_parser("train", Train).split(words)
    wants_help = given.pop("help", False)
    own = [f.name for f in dataclasses.fields(Train)]
    train = _filled(Train, {name: raw for name, raw in given.items() if name in own})
    config = default_config(_method_of(train, given.get("init", "random")))
    if wants_help or unknown:
        parser = _Parser("train", Train, groups(config).values(), by_recipe=_by_recipe(config))
        if wants_help:
            parser.exit_with_help()
        _check_unknown(unknown, parser)
    kinds = {name: kind for group in groups(config).values() for name, kind in get_type_hints(type(group)).items()}
    settings = {}
    for name, raw in given.items():
        check_method_has(name, config.method, f"flag {_flag(name)}")
        if name not in own:
            # "auto" is not a size but asks for one: `train` replaces it by the largest batch that fits.
            settings[name] = raw if (name, raw) == ("batch", "auto") else _value(name, raw, kinds[name])
    return dataclasses.replace(train, settings=settings)


def whole_parser(name: str, kind: type) -> _Parser:
    """Return the parser of a command; that of `train` knows the settings of every method."""
    # The methods with several heads come first, so that --n-prototypes takes several numbers.
    methods = reversed(METHOD_SETTINGS) if kind is Train else ()
    return _Parser(name, kind, [group for method in methods for group in groups(default_config(method)).values()])


class _Parser(argparse.ArgumentParser):
    """A parser with an argument for each field of a dataclass, and a flag for each field of groups of settings."""

    def __init__(self, name: str, kind: type, settings: Iterable[Any] = (), *, by_recipe: Container[str] = ()) -> None:
        description, _, example = (inspect.getdoc(kind) or "").partition("\n\n")
        prog = f"selfcluster {name}"
        super().__init__(prog, description=description, epilog=f"example: {example}", add_help=False, allow_abbrev=False)
        usage = [prog]
        self.switches = {_flag(field.name): get_args(get_args(hint)[1]) for field, hint, _ in _documented_fields(kind) if _is_switch(hint)}
        positional, options = self.add_argument_group("arguments"), self.add_argument_group("options")
        for field, hint, text in _documented_fields(kind):
            required = field.default is dataclasses.MISSING
            if get_origin(hint) is Annotated:
                metavar = hint.__metadata__[0]
                positional.add_argument(field.name, nargs="?", default=argparse.SUPPRESS, metavar=metavar, help=text.replace("%", "%%"))
                usage.append(metavar if required else f"[{metavar}]")
            else:
                _add_flag(options, field.name, hint, text + ("" if required else _default_text(field.default)), "store_true")
                usage += [_flag(field.name), field.name.upper()] if required else []
        options.add_argument("-h", "--help", action="store_true", default=argparse.SUPPRESS, help="Show this help and exit.")
        self.usage = " ".join([*usage, "[options]"])
        seen: set[str] = set()
        for values in settings:
            group = self.add_argument_group((inspect.getdoc(values) or "").removesuffix("."))
            for field, hint, text in _documented_fields(type(values)):
                if field.name not in seen:
                    default = " (by the recipe)" if field.name in by_recipe else _default_text(getattr(values, field.name))
                    _add_flag(group, field.name, hint, text + default, argparse.BooleanOptionalAction)
                seen.add(field.name)

    def split(self, words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the words of each argument that is given, and the words that belong to no argument."""
        arguments, unknown = self.parse_known_intermixed_args(_with_values(words, self.switches))
        return vars(arguments), unknown

    def exit_with_help(self) -> NoReturn:
        print(self.format_help(), end="")
        sys.exit(0)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _is_switch(hint: Any) -> bool:
    """Return whether a flag may have one of a few words as its value, or none."""
    return bool in get_args(hint)


def _with_values(words: Sequence[str], switches: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the words with the value of each switch in the same word; the word after a switch is its value only if it can be."""
    found: list[str] = []
    for word in words:
        if found and found[-1] in switches and word in switches[found[-1]]:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return [f"{word}=true" if word in switches else word for word in found]


def _add_flag(group: argparse._ArgumentGroup, name: str, hint: Any, text: str, switch: Any) -> None:
    text = text.replace("%", "%%")
    if _is_switch(hint):
        group.add_argument(_flag(name), dest=name, metavar="[auto]", default=argparse.SUPPRESS, help=text)
    elif hint is bool:
        group.add_argument(_flag(name), dest=name, action=switch, default=argparse.SUPPRESS, help=text)
    else:
        parts = get_args(hint) if get_origin(hint) is tuple else ()
        nargs = None if not parts else "+" if parts[-1] is Ellipsis else len(parts)
        group.add_argument(_flag(name), dest=name, nargs=nargs, metavar=_metavar(name, hint), default=argparse.SUPPRESS, help=text)


_METAVARS = {
    "augmentation": "NAME",
    "batch": "N|auto",
    "beside": "NAME",
    "config": "FILE",
    "copy_to": "FOLDER",
    "encoder": "NAME",
    "encoder_arguments": "JSON",
    "from_": "STEP",
    "init": "WEIGHTS",
    "k": "N|auto",
    "labels": "auto|none|FILE",
    "method": "NAME",
    "out": "PATH",
    "preset": "NAME",
    "test": "IMAGES",
    "wandb": "PROJECT",
}


def _metavar(name: str, hint: Any) -> str:
    if name in _METAVARS:
        return _METAVARS[name]
    if get_origin(hint) is Literal:
        return f"{{{','.join(get_args(hint))}}}"
    if get_args(hint):
        return _metavar(name, get_args(hint)[0])
    return {int: "N", float: "X"}.get(hint, name.upper())


def _default_text(value: Any) -> str:
    def words(value: Any) -> str:
        return " ".join(map(words, value)) if isinstance(value, tuple) else "on" if value is True else str(value)

    return "" if value is None or value is False or value in ("", ()) else f" (default: {words(value)})"


def _documented_fields(kind: type) -> list[tuple[dataclasses.Field[Any], Any, str]]:
    """Return each field without a default factory, its type, and its help: the docstring below it, read from the source, and the paper's value."""
    hints = get_type_hints(kind, include_extras=True)
    texts = {name: text for base in reversed(kind.__mro__[:-1]) for name, text in _docstrings(base.__module__)[base.__name__].items()}
    fields = [f for f in dataclasses.fields(kind) if f.default_factory is dataclasses.MISSING]
    fields.sort(key=lambda field: field.name not in kind.__annotations__)  # those of the base last
    return [(f, hints[f.name], texts[f.name] + (f" Paper: {f.metadata['paper']}." if "paper" in f.metadata else "")) for f in fields]


@cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the docstring below each field of each class of a module."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        node.name: {
            field.target.id: text.value.value
            for field, text in zip(node.body, node.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _filled(kind: type[Command], given: Mapping[str, Any]) -> Command:
    """Return the dataclass with the values that the given words stand for."""
    hints = get_type_hints(kind)
    values = {name: _value(name, raw, hints[name]) for name, raw in given.items()}
    for field, hint, _ in _documented_fields(kind):
        if field.name not in given and field.default is dataclasses.MISSING:
            argument = hint.__metadata__[0] if get_origin(hint) is Annotated else _flag(field.name)
            raise ConfigError(f"{argument} is missing; see selfcluster {kind.__name__.lower()} --help")
    return kind(**values)


def _value(name: str, raw: Any, kind: Any) -> Any:
    return raw if kind is bool else from_words(_flag(name), raw if isinstance(raw, list) else [raw], kind)


def _flag(name: str) -> str:
    return f"--{name.rstrip('_').replace('_', '-')}"  # a name that is a word of Python's ends in _


_ALSO_CALLED = {
    **dict.fromkeys(("--n-clusters", "--num-clusters", "--clusters"), "--k"),
    **dict.fromkeys(("--output", "--output-dir"), "--out"),
    **dict.fromkeys(("--batch-size", "--bs"), "--batch"),
    **dict.fromkeys(("--learning-rate",), "--lr"),
    **dict.fromkeys(("--backbone", "--model", "--arch"), "--encoder"),
}
"""What other programs call our flags."""


def _check_unknown(words: Sequence[str], parser: _Parser) -> None:
    for word in words:
        if word.startswith("--"):
            flag, flags = word.split("=")[0], [flag for action in parser._actions for flag in action.option_strings]
            if _ALSO_CALLED.get(flag) in flags:
                raise ConfigError(f"unknown flag {flag!r}; did you mean {_ALSO_CALLED[flag]!r}?")
            known(flag, flags, "flag")
    if words:
        is_file = words[0].endswith((".tar", ".parquet"))
        hint = "; a pattern of several files goes in quotes, such as 'shards/*.tar'" if is_file else ""
        raise ConfigError(f"unexpected argument {words[0]!r}{hint}")


def _method_of(train: Train, init: str) -> str:
    """Return the method that the arguments of `train` are for."""
    of_run = Path(train.out or "", "config.toml")
    file = of_run if train.resume and of_run.is_file() else Path(train.config) if train.config else None
    content = read_toml(file) if file is not None else SettingsFile({})
    return profile_of(train.method, train.preset, train.augmentation, content, init).method


def _by_recipe(config: Config[Any]) -> Container[str]:
    """Return the names of the settings that the recipe chooses."""
    facts = Facts(n=5000, short_side=128, is_grey=False, mirror_distance=1.0, accelerated=False)
    return recipe(facts, config, given=())
