"""The figures of an evaluation: as tables to read, and as a file in the run's folder."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfcluster.formatting import table
from selfcluster.runs.atomic import write_atomically

WIDTH = 100
"""Columns of text that tables and notes keep to."""

Figures = dict[str, dict[str, float]]
"""By representation (raw pixels, untrained encoder, trained encoder), then by metric."""


@dataclass(frozen=True)
class _Column:
    title: str
    unit: float = 1.0
    """The value is shown in this."""
    digits: int = 3


def _percent(title: str) -> _Column:
    return _Column(title, unit=0.01, digits=1)


_TABLES: dict[str, dict[str, _Column]] = {
    "against labels, %": {
        "eval/knn_top1_k20": _percent("kNN k=20"),
        "eval/knn_top1_k200": _percent("kNN k=200"),
        "eval/linear_top1": _percent("linear"),
        "eval/retrieval_map": _percent("mAP"),
        "eval/retrieval_recall1": _percent("recall@1"),
    },
    "fine-tuned, %": {
        "eval/finetune_1_top1": _percent("1 % of labels"),
        "eval/finetune_10_top1": _percent("10 % of labels"),
    },
    "clusters": {
        "cluster/accuracy": _percent("accuracy, %"),
        "cluster/purity": _percent("purity, %"),
        "cluster/nmi": _Column("NMI"),
        "cluster/ami": _Column("AMI"),
        "cluster/ari": _Column("ARI"),
    },
    "without labels": {
        "collapse/rankme": _Column("rank", digits=1),
        "eval/silhouette": _Column("silhouette"),
        "eval/view_top1": _percent("views, %"),
        "eval/neighbor_overlap": _percent("overlap, %"),
        "collapse/prototypes_used": _Column("prototypes", digits=1),
        "collapse/prototypes_share": _percent("used, %"),
    },
}
"""What is shown, in this order; whatever else was measured stands in the file alone."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of each representation, and what should be said about them."""

    figures: Figures
    notes: tuple[str, ...]
    file: Path
    """Where they are kept."""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What they are figures of."""

    def __repr__(self) -> str:
        return f"Evaluation({', '.join(self.figures)}; {str(self.file)!r})"

    def __str__(self) -> str:
        tables = [text for title, columns in _TABLES.items() for text in _tables(title, columns, self.figures)]
        notes = (textwrap.fill(f"- {note}", WIDTH, subsequent_indent="  ", break_on_hyphens=False) for note in self.notes)
        return "\n\n".join([*tables, "\n".join(notes)])

    def keep(self) -> Evaluation:
        """It is in its file, together with what the file held of the same run and images, and is returned with that."""
        kept = self._joined_with_file()
        content = {"figures": kept.figures, "notes": kept.notes, "of": dict(kept.identity)}
        write_atomically(kept.file, json.dumps(content, indent=1).encode())
        return kept

    def _joined_with_file(self) -> Evaluation:
        try:
            before = json.loads(self.file.read_text())
            if before["of"] != json.loads(json.dumps(dict(self.identity))):
                return self
            names = [*self.figures, *(name for name in before["figures"] if name not in self.figures)]
            figures = {name: {**before["figures"].get(name, {}), **self.figures.get(name, {})} for name in names}
            return Evaluation(figures, tuple(dict.fromkeys([*self.notes, *before["notes"]])), self.file, self.identity)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return self  # there is none yet, or one that another version wrote


def file_for(folder: Path, name: str, identity: Mapping[str, Any], *, is_own: bool) -> Path:
    """evaluation.json for the run's own data; for others evaluation-<name>.json, with a number where other data have taken the name."""
    if is_own:
        return folder / "evaluation.json"
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
    n = 1
    while True:
        file = folder / f"evaluation-{stem}{f'-{n}' if n > 1 else ''}.json"
        if not file.exists() or _data_of(file) == identity["data"]:
            return file
        n += 1


def _data_of(file: Path) -> str | None:
    try:
        return json.loads(file.read_text())["of"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _tables(title: str, columns: Mapping[str, _Column], figures: Figures) -> list[str]:
    """The columns that some representation has figures for, in as many tables as the width asks for."""
    shown = {metric: column for metric, column in columns.items() if any(metric in values for values in figures.values())}
    texts: list[str] = []
    group: list[list[str]] = []
    for metric, column in shown.items():
        cells = [column.title, *(_cell(values, metric, column) for values in figures.values())]
        if group and _width_of(title, figures, [*group, cells]) > WIDTH:
            texts.append(_table(title, figures, group))
            group = []
        group.append(cells)
    return [*texts, _table(title, figures, group)] if group else texts


def _table(title: str, figures: Figures, group: list[list[str]]) -> str:
    return table(zip([title, *figures], *group, strict=True), right=range(1, len(group) + 1))


def _width_of(title: str, figures: Figures, group: list[list[str]]) -> int:
    return max(map(len, _table(title, figures, group).splitlines()))


def _cell(values: Mapping[str, float], metric: str, column: _Column) -> str:
    if metric not in values:
        return "-"
    text = f"{values[metric] / column.unit:.{column.digits}f}"
    error = values.get(f"{metric}_se")
    return text if error is None else f"{text} ± {error / column.unit:.{column.digits}f}"
