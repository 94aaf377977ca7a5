"""Evaluation results: formatted as tables, saved as JSON in the run folder."""

from __future__ import annotations

import itertools
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfcluster.evaluation.metric_titles import titles_of
from selfcluster.formatting import table
from selfcluster.runs.atomic import write_atomically

WIDTH = 100
"""Widest line of tables and notes, in columns of text."""

Figures = dict[str, dict[str, float]]
"""Values by representation (raw pixels, untrained encoder, trained encoder), then by metric."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics of each representation, with notes on how they were measured."""

    figures: Figures
    notes: tuple[str, ...]
    file: Path
    """File they are saved in."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """Images, split and checkpoint that were evaluated."""

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(self.figures)}; {str(self.file)!r})"

    def __str__(self) -> str:
        groups = dict.fromkeys(title.group for title in titles_of(self.figures).values())
        tables = [text for group in groups for text in _tables(group, self.figures)]
        notes = (textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ", break_on_hyphens=False) for note in self.notes)
        return "\n\n".join([*tables, "\n".join(notes)])

    def save(self) -> Evaluation:
        """Merge with results already saved for the same run and images, write the file, and return the merged evaluation."""
        merged = self._merged_with_file()
        content = {"figures": merged.figures, "notes": merged.notes, "of": dict(merged.identity)}
        write_atomically(merged.file, json.dumps(content, indent=1).encode())
        return merged

    def _merged_with_file(self) -> Evaluation:
        try:
            saved = json.loads(self.file.read_text())
            if saved["of"] != json.loads(json.dumps(dict(self.identity))):
                return self
            names = [*self.figures, *(name for name in saved["figures"] if name not in self.figures)]
            figures = {name: {**saved["figures"].get(name, {}), **self.figures.get(name, {})} for name in names}
            return Evaluation(figures, tuple(dict.fromkeys([*self.notes, *saved["notes"]])), self.file, self.identity)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return self  # no file yet, or one that another version wrote


def file_for(folder: Path, name: str, identity: Mapping[str, Any], *, is_own: bool) -> Path:
    """Return evaluation.json for the run's own data, otherwise evaluation-<name>.json, numbered if other data already use that name."""
    if is_own:
        return folder / "evaluation.json"
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
    names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
    files = (folder / f"evaluation-{name}.json" for name in names)
    return next(file for file in files if not file.exists() or _data_of(file) == identity["data"])


def _data_of(file: Path) -> str | None:
    try:
        return json.loads(file.read_text())["of"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tables(group: str, figures: Figures) -> list[str]:
    """Format a group of metrics, without those that were not measured, in as many tables as the width requires."""
    texts: list[str] = []
    columns = [[group, *figures]]
    for metric, title in titles_of(figures).items():
        if title.group != group:
            continue
        cells = (title.text(values[metric], values.get(f"{metric}_se")) if metric in values else "-" for values in figures.values())
        column = [title.short, *cells]
        if len(columns) > 1 and max(map(len, _table([*columns, column]).splitlines())) > WIDTH:
            texts.append(_table(columns))
            columns = columns[:1]
        columns = [*columns, column]
    return [*texts, _table(columns)] if len(columns) > 1 else texts


def _table(columns: list[list[str]]) -> str:
    return table(zip(*columns, strict=True), right=range(1, len(columns)))
