"""Docstrings of the methods of `Run`, completed by those of the functions that do the work."""

from __future__ import annotations

import inspect
import re
from typing import Any

from selfcluster.evaluation import evaluate
from selfcluster.exporters import export
from selfcluster.inference import clusters, embeddings, explore, renaming
from selfcluster.reporting import report

WORKERS = {
    "selfcluster.explore": explore.explore,
    "selfcluster.Run.apply": renaming.apply,
    "selfcluster.Run.assign": clusters.assign,
    "selfcluster.Run.cluster": clusters.cluster,
    "selfcluster.Run.embed": embeddings.embed,
    "selfcluster.Run.evaluate": evaluate.evaluate,
    "selfcluster.Run.export": export.export,
    "selfcluster.Run.report": report.report,
}
"""The function that a docstring refers to ("see `embeddings.embed`") has the sections; its arguments stand in the same order."""


def complete(_app: Any, what: str, name: str, method: Any, _options: Any, lines: list[str]) -> None:
    """Replace the reference to a function by its sections of arguments, results and errors."""
    if what == "attribute":
        lines[:0] = ["..", ""]  # an empty comment: or napoleon takes what stands before a colon for a type
    if name not in WORKERS:
        return
    head, *own = "\n".join(lines).strip().split("\n\n")
    doc = inspect.cleandoc(WORKERS[name].__doc__ or "")
    sections = dict(re.findall(r"^(Args|Returns|Raises):\n((?: .*\n?)+)", doc, flags=re.MULTILINE))
    entries = {
        argument: text for argument, text in re.findall(r"^    (\w+): (.*(?:\n     .*)*)", sections.pop("Args", ""), flags=re.MULTILINE)
    }
    ours, theirs = (list(inspect.signature(function).parameters.values()) for function in (method, WORKERS[name]))
    called = {their.name: our.name for our, their in zip(ours, theirs, strict=False) if our.kind is our.POSITIONAL_OR_KEYWORD}
    known = {p.name for p in ours} - {"self"}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in ours)
    shown = {called.get(argument, argument): text for argument, text in entries.items()}
    arguments = [f"    {argument}: {text}" for argument, text in shown.items() if argument != "self" and (takes_all or argument in known)]
    parts = [re.sub(r"; see `[\w.]+`( for the (other )?arguments)?\.", ".", head)]
    if arguments:
        parts.append("Args:\n" + "\n".join(arguments))
    parts += [f"{title}:\n{text.rstrip()}" for title, text in sections.items() if not any(part.startswith(title) for part in own)]
    lines[:] = "\n\n".join([*parts, *own]).splitlines()


def setup(app: Any) -> dict[str, bool]:
    """Connect to autodoc, before napoleon reads the sections."""
    app.connect("autodoc-process-docstring", complete, priority=400)
    return {"parallel_read_safe": True}
