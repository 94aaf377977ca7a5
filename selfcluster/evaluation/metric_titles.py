"""Titles and units of the metrics, for the tables in the terminal and on the report page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

KNN = "eval/knn_top1_k"
"""Name of the accuracy of nearest neighbors, which their number follows."""


@dataclass(frozen=True)
class MetricTitle:
    """How a metric is shown."""

    group: str
    """Title of its table in the terminal."""
    short: str
    """Title of its column there."""
    long: str = ""
    """Title of its row on the page; empty if the page does not show it."""
    unit: Literal["%", ""] = "%"
    digits: int = 1

    def text(self, value: float, error: float | None = None) -> str:
        """Format a value, and its standard error if there is one, in the metric's unit: `12.3 ± 1.2`."""
        factor = 100 if self.unit == "%" else 1
        return " ± ".join(f"{factor * number:.{self.digits}f}" for number in (value, error) if number is not None)


METRIC_TITLES = {
    "eval/linear_top1": MetricTitle("against labels, %", "linear", "Linear probe"),
    "eval/retrieval_map": MetricTitle("against labels, %", "mAP", "Retrieval, mean average precision"),
    "eval/retrieval_recall1": MetricTitle("against labels, %", "recall@1", "Retrieval, nearest of the same class"),
    "eval/finetune_1_top1": MetricTitle("fine-tuned, %", "1 % of labels", "Fine-tuned on 1 % of the labels"),
    "eval/finetune_10_top1": MetricTitle("fine-tuned, %", "10 % of labels", "Fine-tuned on 10 % of the labels"),
    "cluster/accuracy": MetricTitle("clusters", "accuracy, %", "Clusters matched to classes"),
    "cluster/purity": MetricTitle("clusters", "purity, %", "Purity of clusters"),
    "cluster/nmi": MetricTitle("clusters", "NMI", "Clusters, NMI", unit="", digits=3),
    "cluster/ami": MetricTitle("clusters", "AMI", "Clusters, AMI", unit="", digits=3),
    "cluster/ari": MetricTitle("clusters", "ARI", "Clusters, ARI", unit="", digits=3),
    "collapse/rankme": MetricTitle("without labels", "rank", unit=""),
    "eval/silhouette": MetricTitle("without labels", "silhouette", "Silhouette (no labels)", unit="", digits=3),
    "eval/view_top1": MetricTitle("without labels", "views, %", "Views of one image found (no labels)"),
    "eval/neighbor_overlap": MetricTitle("without labels", "overlap, %", "Neighbors kept between views (no labels)"),
    "collapse/prototypes_used": MetricTitle("without labels", "prototypes", unit=""),
    "collapse/prototypes_share": MetricTitle("without labels", "used, %"),
}
"""Metrics in the order in which they are shown, after nearest neighbors; all others are in evaluation.json only."""


def knn_metrics(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the accuracies of nearest neighbors among a representation's metrics, fewest neighbors first."""
    return [metric for metric in values if metric.startswith(KNN) and not metric.endswith("_se")]


def titles_of(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, MetricTitle]:
    """Return the titles of the metrics of any representation, in the order in which they are shown."""
    measured = dict.fromkeys(metric for values in figures.values() for metric in values)
    knn = {metric: metric.removeprefix(KNN) for metric in knn_metrics(measured)}
    titles = {metric: MetricTitle("against labels, %", f"kNN k={k}", f"Nearest neighbors, k = {k}") for metric, k in knn.items()}
    return titles | {metric: title for metric, title in METRIC_TITLES.items() if metric in measured}
