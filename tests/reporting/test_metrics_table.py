"""The table of metrics shows what the file contains."""

from __future__ import annotations

from selfcluster.evaluation.metric_titles import METRIC_TITLES
from selfcluster.reporting.metrics_table import metrics_table


def test_metrics_are_rows_and_the_best_is_marked() -> None:
    table = metrics_table(
        {
            "figures": {
                "raw pixels": {"eval/knn_top1_k17": 0.5, "cluster/nmi": 0.25},
                "trained encoder": {"eval/knn_top1_k17": 0.75, "eval/knn_top1_k17_se": 0.012, "cluster/nmi": 0.2, "cluster/nmi_se": 0.03},
            },
            "notes": ["a note"],
        }
    )
    assert table is not None
    assert table.representations == ("raw pixels", "trained encoder")
    names = [name for name, _ in table.rows]
    assert names == ["Nearest neighbors, k = 17", "Clusters, NMI"]
    assert [[cell.text for cell in cells] for _, cells in table.rows] == [["50.0 %", "75.0 ± 1.2 %"], ["0.250", "0.200 ± 0.030"]]
    assert [[cell.is_best for cell in cells] for _, cells in table.rows] == [[False, True], [True, False]]
    assert table.notes == ("a note",)


def test_without_figures_there_is_no_table() -> None:
    assert metrics_table(None) is None
    assert metrics_table({}) is None
    assert metrics_table({"figures": {}, "notes": []}) is None
    assert metrics_table({"figures": {"raw pixels": {"another/metric": 1.0}}}) is None


def test_every_metric_of_the_terminal_is_shown_but_for_signs_of_collapse() -> None:
    table = metrics_table({"figures": {"trained encoder": dict.fromkeys(METRIC_TITLES, 0.5)}})
    assert table is not None
    assert len(table.rows) == len([name for name in METRIC_TITLES if not name.startswith("collapse/")])


def test_a_value_that_is_not_a_number_is_a_dash() -> None:
    table = metrics_table({"figures": {"raw pixels": {"cluster/nmi": float("nan"), "cluster/ami": None, "cluster/ari": "x"}}})
    assert table is not None
    assert [cells[0].text for _, cells in table.rows] == ["–", "–", "–"]
