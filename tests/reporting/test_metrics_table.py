"""The table of figures is the file's."""

from __future__ import annotations

from selfcluster.reporting.metrics_table import evaluated


def test_metrics_are_rows_and_the_best_is_marked() -> None:
    table = evaluated(
        {
            "figures": {
                "raw pixels": {"eval/knn_top1_k20": 0.5, "cluster/nmi": 0.25},
                "trained encoder": {"eval/knn_top1_k20": 0.75, "eval/knn_top1_k20_se": 0.012, "cluster/nmi": 0.2, "cluster/nmi_se": 0.03},
            },
            "notes": ["a note"],
        }
    )
    assert table is not None
    assert table.representations == ("raw pixels", "trained encoder")
    names = [name for name, _ in table.rows]
    assert names == ["Nearest neighbors, k = 20", "Clusters, NMI"]
    assert [[cell.text for cell in cells] for _, cells in table.rows] == [["50.0 %", "75.0 ± 1.2 %"], ["0.250", "0.200 ± 0.030"]]
    assert [[cell.is_best for cell in cells] for _, cells in table.rows] == [[False, True], [True, False]]
    assert table.notes == ("a note",)


def test_without_figures_there_is_no_table() -> None:
    assert evaluated(None) is None
    assert evaluated({}) is None
    assert evaluated({"figures": {}, "notes": []}) is None
    assert evaluated({"figures": {"raw pixels": {"another/metric": 1.0}}}) is None


def test_what_an_evaluation_shows_is_shown_here_too() -> None:
    from selfcluster.evaluation.results import _TABLES

    told = {metric for columns in _TABLES.values() for metric in columns if not metric.startswith("collapse/")}
    table = evaluated({"figures": {"trained encoder": dict.fromkeys(told, 0.5)}})
    assert table is not None
    assert len(table.rows) == len(told)


def test_a_figure_that_is_no_number_is_left_open() -> None:
    table = evaluated({"figures": {"raw pixels": {"cluster/nmi": float("nan"), "cluster/ami": None, "cluster/ari": "x"}}})
    assert table is not None
    assert [cells[0].text for _, cells in table.rows] == ["–", "–", "–"]
