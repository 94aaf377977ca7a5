"""The figures of an evaluation as a table: a metric in each row, and a column for the encoder and for each of its floors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Metric:
    title: str
    is_share: bool = True
    """Of images, and so told in per cent."""


_METRICS = {
    "eval/knn_top1_k20": _Metric("Nearest neighbors, k = 20"),
    "eval/knn_top1_k200": _Metric("Nearest neighbors, k = 200"),
    "eval/linear_top1": _Metric("Linear probe"),
    "eval/retrieval_map": _Metric("Retrieval, mean average precision"),
    "eval/retrieval_recall1": _Metric("Retrieval, nearest of the same class"),
    "eval/finetune_1_top1": _Metric("Fine-tuned on 1 % of the labels"),
    "eval/finetune_10_top1": _Metric("Fine-tuned on 10 % of the labels"),
    "cluster/accuracy": _Metric("Clusters matched to classes"),
    "cluster/purity": _Metric("Purity of clusters"),
    "cluster/nmi": _Metric("Clusters, NMI", is_share=False),
    "cluster/ami": _Metric("Clusters, AMI", is_share=False),
    "cluster/ari": _Metric("Clusters, ARI", is_share=False),
    "eval/silhouette": _Metric("Silhouette (no labels)", is_share=False),
    "eval/view_top1": _Metric("Views of one image found (no labels)"),
    "eval/neighbor_overlap": _Metric("Neighbors kept between views (no labels)"),
}
"""In the order of the rows; what else was measured stands in the file alone."""


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
    measured = [name for name in _METRICS if any(name in values for values in figures.values())]
    if not measured:
        return None
    rows = tuple((_METRICS[name].title, _cells(name, list(figures.values()))) for name in measured)
    return Evaluated(tuple(figures), rows, tuple(map(str, (evaluation or {}).get("notes") or ())))


def _cells(name: str, values: list[Mapping[str, Any]]) -> tuple[Cell, ...]:
    """The figure of each representation, with its standard error where that was measured too."""
    numbers = [_number(of_one.get(name)) for of_one in values]
    errors = [_number(of_one.get(f"{name}_se")) for of_one in values]
    best = max((n for n in numbers if n is not None), default=None)
    return tuple(
        Cell("–" if n is None else _told(_METRICS[name], n, error), n is not None and n == best and len(numbers) > 1)
        for n, error in zip(numbers, errors, strict=True)
    )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _told(metric: _Metric, value: float, error: float | None) -> str:
    if metric.is_share:
        return f"{100 * value:.1f} %" if error is None else f"{100 * value:.1f} ± {100 * error:.1f} %"
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"
