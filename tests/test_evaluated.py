"""The table of figures is the file's."""

from __future__ import annotations

from selfcluster.report.evaluated import evaluated


def test_metrics_are_rows_and_the_best_is_marked() -> None:
    table = evaluated(
        {
            "figures": {
                "raw pixels": {"eval/knn_top1_k20": 0.5, "cluster/nmi": 0.25},
                "trained encoder": {"eval/knn_top1_k20": 0.75, "cluster/nmi": 0.2, "new/metric": 3.0},
            },
            "notes": ["a note"],
        }
    )
    assert table is not None
    assert table.representations == ("raw pixels", "trained encoder")
    names = [name for name, _ in table.rows]
    assert names == ["Nearest neighbours, k = 20", "Clusters, NMI", "new/metric"]
    assert [[cell.text for cell in cells] for _, cells in table.rows] == [["50.0 %", "75.0 %"], ["0.250", "0.200"], ["–", "3.000"]]
    assert [[cell.is_best for cell in cells] for _, cells in table.rows] == [[False, True], [True, False], [False, True]]
    assert table.notes == ("a note",)


def test_without_figures_there_is_no_table() -> None:
    assert evaluated(None) is None
    assert evaluated({}) is None
    assert evaluated({"figures": {}, "notes": []}) is None


def test_a_figure_that_is_no_number_is_left_open() -> None:
    table = evaluated({"figures": {"raw pixels": {"a": float("nan"), "b": None, "c": "x"}}})
    assert table is not None
    assert [cells[0].text for _, cells in table.rows] == ["–", "–", "–"]
