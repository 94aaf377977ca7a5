"""The figures of an evaluation as a table: a metric in each row, and a column for the encoder and for each of its floors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NAMES = {
    "eval/knn_top1_k20": "Nearest neighbours, k = 20",
    "eval/knn_top1_k200": "Nearest neighbours, k = 200",
    "eval/linear_top1": "Linear probe",
    "cluster/accuracy": "Clusters matched to classes",
    "cluster/purity": "Purity of clusters",
    "cluster/nmi": "Clusters, NMI",
    "cluster/ami": "Clusters, AMI",
    "cluster/ari": "Clusters, ARI",
}

_SHARES = ("eval/", "cluster/accuracy", "cluster/purity")
"""Metrics that are shares of images; the others are given as they are."""


@dataclass(frozen=True)
class Cell:
    """One figure."""

    text: str
    is_best: bool


@dataclass(frozen=True)
class Evaluated:
    """The table."""

    representations: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Name of the metric, and its figure for each representation."""
    notes: tuple[str, ...]


def evaluated(evaluation: Mapping[str, Any] | None) -> Evaluated | None:
    """The table of an evaluation.json; None where there is none, or no figure in it."""
    figures: Mapping[str, Mapping[str, Any]] = (evaluation or {}).get("figures") or {}
    metrics = list(dict.fromkeys(metric for values in figures.values() for metric in values))
    if not metrics:
        return None
    rows = tuple((_NAMES.get(metric, metric), _cells(metric, [values.get(metric) for values in figures.values()])) for metric in metrics)
    return Evaluated(tuple(figures), rows, tuple(map(str, (evaluation or {}).get("notes") or ())))


def _cells(metric: str, values: list[Any]) -> tuple[Cell, ...]:
    numbers = [value if isinstance(value, int | float) and math.isfinite(value) else None for value in values]
    best = max((n for n in numbers if n is not None), default=None)
    return tuple(Cell("–" if n is None else _figure(metric, n), n is not None and n == best and len(numbers) > 1) for n in numbers)


def _figure(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric.startswith(_SHARES) and 0 <= value <= 1 else f"{value:.3f}"
