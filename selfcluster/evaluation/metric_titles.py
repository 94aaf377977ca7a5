"""Titles and units of the metrics, for the tables in the terminal and on the report page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    "eval/knn_top1_k20": MetricTitle("against labels, %", "kNN k=20", "Nearest neighbors, k = 20"),
    "eval/knn_top1_k200": MetricTitle("against labels, %", "kNN k=200", "Nearest neighbors, k = 200"),
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
"""Metrics in the order in which they are shown; all others are in evaluation.json only."""
