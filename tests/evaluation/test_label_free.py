from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import silhouette_samples

from selfcluster.clustering import neighbors
from selfcluster.evaluation import label_free


def _rows(n: int, width: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def test_equal_views_are_found_unrelated_ones_are_not_and_constant_ones_tie() -> None:
    rows = _rows(300)
    assert (label_free.views_found(rows, rows * 3) == 1).all()
    assert label_free.views_found(rows, _rows(300, seed=1)).mean() < 0.03
    assert label_free.views_found(torch.ones(50, 4), torch.ones(50, 4)).mean() == 0


def test_views_found_equals_a_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_CHUNK_ROWS", 7)
    first = _rows(40)
    second = first + 0.7 * _rows(40, seed=1)
    a, b = (torch.nn.functional.normalize(x) for x in (first, second))
    wanted = [((a[i] @ b.T).argmax() == i).item() / 2 + ((b[i] @ a.T).argmax() == i).item() / 2 for i in range(40)]
    found = label_free.views_found(first, second)
    assert found.tolist() == wanted
    assert 0.2 < found.mean() < 0.95


def test_neighbor_overlap_equals_a_naive_loop_and_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_CHUNK_ROWS", 7)
    first = _rows(40)
    second = first + 0.5 * _rows(40, seed=1)
    lists = []
    for rows in (first, second):
        unit = torch.nn.functional.normalize(rows)
        lists.append([set([j for j in (unit @ unit[i]).argsort(descending=True).tolist() if j != i][:5]) for i in range(40)])
    wanted = [len(a & b) / 5 for a, b in zip(*lists, strict=True)]
    assert label_free.neighbor_overlap(first, second, k=5) == pytest.approx(wanted)
    assert (label_free.neighbor_overlap(first, first * 2, k=5) == 1).all()
    assert label_free.neighbor_overlap(_rows(300), _rows(300, seed=1), k=10).mean() == pytest.approx(10 / 299, abs=0.01)


def test_silhouettes() -> None:
    labels = np.arange(90) % 3
    rows = torch.eye(3)[torch.from_numpy(labels)] + 0.01 * _rows(90, 3)
    found = label_free.silhouettes(rows, 3)
    assert found == pytest.approx(silhouette_samples(torch.nn.functional.normalize(rows).numpy(), labels), abs=1e-5)
    assert found.mean() > 0.9
    assert label_free.silhouettes(_rows(90), 3).mean() < 0.5
    assert (label_free.silhouettes(torch.ones(20, 4), 5) == 0).all()


def test_all_metrics_of_two_images_and_of_many() -> None:
    many = dict(label_free.measure(_rows(50), _rows(50), (_rows(50), _rows(50, seed=1)), k=5))
    names = {"eval/silhouette", "eval/view_top1", "eval/neighbor_overlap"}
    assert many.keys() == {"collapse/rankme"} | names | {f"{name}_se" for name in names}
    assert 5 < many["collapse/rankme"] <= 6.001
    few = dict(label_free.measure(_rows(2), _rows(2), (_rows(2), _rows(2, seed=1)), k=5))
    assert np.isfinite(list(few.values())).all()
    one = dict(label_free.measure(_rows(1), _rows(1), (_rows(1), _rows(1, seed=1)), k=5))
    assert one.keys() == {"collapse/rankme"}


def test_prototype_use() -> None:
    figures = dict(label_free.prototype_use(np.array([0, 0, 3, 3]), 8))
    assert figures == {"collapse/prototypes_used": pytest.approx(2), "collapse/prototypes_share": 0.25}
