"""An evaluation as a table of the page: a row per metric, a column per representation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfcluster.evaluation.metric_titles import MetricTitle, titles_of


@dataclass(frozen=True)
class Cell:
    """Value of a metric for one representation."""

    text: str
    is_best: bool


@dataclass(frozen=True)
class MetricsTable:
    """Metrics of each representation, with notes on how they were measured."""

    representations: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Title of the metric, and its value for each representation."""
    notes: tuple[str, ...]


def metrics_table(evaluation: Mapping[str, Any] | None) -> MetricsTable | None:
    """Return the table of the content of an evaluation.json; None if there is no such file, or no metric in it that the page shows."""
    figures: Mapping[str, Mapping[str, Any]] = (evaluation or {}).get("figures") or {}
    shown = {name: title for name, title in titles_of(figures).items() if title.long}
    if not shown:
        return None
    rows = tuple((title.long, _cells(name, title, list(figures.values()))) for name, title in shown.items())
    return MetricsTable(tuple(figures), rows, tuple(map(str, (evaluation or {}).get("notes") or ())))


def _cells(name: str, title: MetricTitle, representations: list[Mapping[str, Any]]) -> tuple[Cell, ...]:
    numbers = [_number(values.get(name)) for values in representations]
    errors = [_number(values.get(f"{name}_se")) for values in representations]
    best = max((n for n in numbers if n is not None), default=None)
    return tuple(
        Cell("–" if n is None else f"{title.text(n, error)} {title.unit}".strip(), n is not None and n == best and len(numbers) > 1)
        for n, error in zip(numbers, errors, strict=True)
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
