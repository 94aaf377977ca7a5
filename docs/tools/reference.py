"""The pages of settings and commands, made from the code when the site is built: each replaces a comment on its page."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcluster.cli import _COMMANDS
from selfcluster.settings.choices import Facts
from selfcluster.settings.config import CHANGEABLE_ON_RESUME, METHOD_SETTINGS, default_config, flatten, groups
from selfcluster.settings.parser import _docstrings, _Parser
from selfcluster.settings.recipe import recipe

ABOUT = tomllib.loads((Path(__file__).resolve().parents[1] / "reference" / "settings.toml").read_text())
TITLES = {"swav": "SwAV", "deepcluster": "DeepCluster", "deepcluster-v2": "DeepCluster-v2", "sela-v2": "SeLa-v2"}

_PHOTOS = Facts(5000, short_side=300, is_grey=False, mirror_distance=1.0, accelerated=False)
_FOLDERS = {
    "1,797 digits": Facts(1797, short_side=8, is_grey=True, mirror_distance=1.6, accelerated=False),
    "50,000 images of 32 pixels": dataclasses.replace(_PHOTOS, n=50_000, short_side=32),
    "5,000 photos": _PHOTOS,
    "the same, with a GPU": dataclasses.replace(_PHOTOS, accelerated=True),
    "1,281,167 photos, with a GPU": dataclasses.replace(_PHOTOS, n=1_281_167, accelerated=True),
}


def settings() -> str:
    """Return a section for each group of settings, with an entry for each."""
    of_method = {method: groups(default_config(method)) for method in METHOD_SETTINGS}
    shared = {name: values for name, values in of_method["swav"].items() if name not in METHOD_SETTINGS}
    parts = []
    for group in ("data", "crops", "augment", "model", *METHOD_SETTINGS, "optim", "health", "run"):
        values = shared.get(group) or of_method[group][group]
        texts = _docstrings(type(values).__module__)[type(values).__name__]
        parts.append(f"## {TITLES.get(group, '')}{_title(type(values).__doc__, group)} (`[{group}]`)")
        for field in dataclasses.fields(values):
            defaults = {m: getattr(of_method[m][group], field.name) for m in METHOD_SETTINGS if group in of_method[m]}
            parts.append(f"### `--{field.name.replace('_', '-')}`\n\n{_escaped(texts[field.name])}\n\n{_facts(field, defaults)}")
    return "\n\n".join(parts)


def _title(doc: str | None, group: str) -> str:
    text = (doc or "").removesuffix(".")
    return text.removeprefix(TITLES[group]) if group in TITLES else text


def _facts(field: dataclasses.Field[Any], defaults: dict[str, Any]) -> str:
    first, *_ = defaults.values()
    others = [f"{TITLES[method]}: {_words(value)}" for method, value in defaults.items() if value != first]
    facts = {
        "values": ABOUT["values"][field.name],
        "default": "; ".join([_words(first), *others]),
        "recipe": ABOUT["recipe"].get(field.name),
        "paper": field.metadata.get("paper"),
        "resume": "may change" if field.name in CHANGEABLE_ON_RESUME else None,
    }
    return "\n".join(f":{name}: {_escaped(text)}" for name, text in facts.items() if text)


def choices() -> str:
    """Return tables of what the recipe chooses for a few folders."""
    adapted = {"5,000 photos, from pretrained weights": dataclasses.replace(_PHOTOS, adapts=True)}
    parts = []
    for method in ("swav", "deepcluster-v2"):
        folders = _FOLDERS if method == "swav" else {name: facts for name, facts in _FOLDERS.items() if facts.n < 10**6} | adapted
        config = default_config(method)
        found = [recipe(facts, config, given=()) for facts in folders.values()]
        rows = []
        for name, default in flatten(config).items():
            values = [advice[name].value if name in advice else default for advice in found]
            if len(set(values)) > 1:
                rows.append(f"| `{name}` | {' | '.join(_escaped(_words(value)) for value in values)} |")
        head = f"| | {' | '.join(folders)} |\n|{'---|' * (len(folders) + 1)}"
        parts.append(f"**{TITLES[method]}**\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_words, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.3g}" if isinstance(value, float) else str(value) or "none"


def commands() -> str:
    """Return a section for each command: what it does, an example, and its arguments."""
    return "\n\n".join("\n\n".join(_command(name, kind)) for name, (kind, _) in _COMMANDS.items())


def _command(name: str, kind: type) -> Iterator[str]:
    parser = _Parser(name, kind)
    yield f"## {name}"
    yield _escaped(parser.description or "")
    yield f"```\n{(parser.epilog or '').removeprefix('example: ')}\n```"
    for action in parser._actions:
        called = ", ".join(action.option_strings) if action.option_strings else ""
        shown = f"{called} {action.metavar if action.nargs != 0 else ''}".strip()
        yield f"`{shown}{' ...' if action.nargs == '+' else ''}`\n: {_escaped((action.help or '').replace('%%', '%'))}"
    if name == "train":
        yield "Beside these, every [setting](settings.md) is a flag."


def _escaped(text: str) -> str:
    """Return a text as Markdown, with flags as code."""
    return re.sub(r"(?<!\S)(--[a-z-]+[a-z])", r"`\1`", re.sub(r"([<>*_`\[\]|])", r"\\\1", text))


MADE = {"settings": settings, "choices": choices, "commands": commands}


def fill(_app: Any, _page: str, source: list[str]) -> None:
    """Replace the comment `<!-- made: NAME -->` of a page by the text of that name."""
    source[0] = re.sub(r"<!-- made: (\w+) -->", lambda match: MADE[match[1]](), source[0])


def setup(app: Any) -> dict[str, bool]:
    """Connect to the reading of pages."""
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
