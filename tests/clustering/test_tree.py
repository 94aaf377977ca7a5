"""Trees of clusters: every cut splits the clusters of a coarser one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from selfcluster.clustering import hierarchy
from selfcluster.clustering.hierarchy import find_clusters
from selfcluster.clustering.metrics import matched_accuracy
from selfcluster.clustering.neighbor_graph import graph_embedding, neighbor_graph
from selfcluster.clustering.tree import Tree, means_of, ward, ward_of_means
from tests.clustering.test_density import blobs


def splits(coarse: np.ndarray, fine: np.ndarray) -> bool:
    """Whether every cluster of the finer clustering is inside one of the coarser."""
    return all(len(np.unique(coarse[fine == cluster])) == 1 for cluster in np.unique(fine))


def test_a_cut_undoes_the_last_merges() -> None:
    tree = Tree(np.array([[0, 1], [2, 3], [4, 5]]))
    for k, groups in {1: [0] * 4, 2: [0, 0, 1, 1], 3: [0, 0, 1, 2], 4: [0, 1, 2, 3]}.items():
        assert splits(tree.cut(k), np.array(groups))
        assert splits(np.array(groups), tree.cut(k))


@pytest.mark.parametrize("n_groups", [1, 7])
def test_cuts_are_nested_and_contain_the_groups(n_groups: int) -> None:
    features, labels = blobs([30] * 7)
    graph = neighbor_graph(features)
    groups = labels if n_groups == 7 else np.zeros(len(labels), dtype=np.int64)
    tree = ward(graph_embedding(graph, power=8, n_vectors=20), graph, groups)
    cuts = [tree.cut(k) for k in range(1, tree.n_leaves + 1)]
    assert [len(np.unique(cut)) for cut in cuts] == list(range(1, 211))
    assert all(splits(coarse, fine) for coarse, fine in itertools.pairwise(cuts))
    assert matched_accuracy(labels, cuts[6]) == 1


def test_the_top_of_a_tree_cuts_as_the_tree() -> None:
    draw = np.random.default_rng(0)
    tree = ward_of_means(draw.normal(size=(40, 3)), np.ones(40))
    leaves, top = tree.cut(12), tree.top(12)
    assert top.n_leaves == 12
    for k in range(1, 13):
        same = top.cut(k)[leaves]
        assert splits(same, tree.cut(k))
        assert splits(tree.cut(k), same)


def test_ward_of_means_is_that_of_scipy_and_takes_empty_groups() -> None:
    from scipy.cluster.hierarchy import fcluster, linkage

    rows = np.random.default_rng(0).normal(size=(30, 4))
    for k in (2, 5, 11):
        theirs = fcluster(linkage(rows, "ward"), k, "maxclust")
        assert matched_accuracy(theirs, ward_of_means(rows, np.ones(30)).cut(k)) == 1
    means, sizes = means_of(rows, np.repeat([0, 2], 15), 4)
    assert sizes.tolist() == [15, 0, 15, 0]
    assert ward_of_means(means, sizes).n_leaves == 4


@pytest.mark.parametrize("k", [None, 3, 6, 40])
def test_clusters_of_features_are_found(k: int | None) -> None:
    features, labels = blobs([80, 60, 40, 30, 20, 20])
    found = find_clusters(features, k=k)
    assert found.natural == (6 if k is None else 1)
    n_clusters = k or found.natural
    clusters = found.tree.cut(n_clusters)[(features @ found.means.T).argmax(dim=1).numpy()]
    assert len(np.unique(clusters)) == n_clusters
    assert matched_accuracy(labels, clusters) > 0.99 or k in (3, 40)
    torch.testing.assert_close(found.means.norm(dim=1), torch.ones(found.tree.n_leaves))


def test_of_many_rows_a_sample_is_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hierarchy, "_MAX_ROWS", 200)
    found = find_clusters(blobs([200] * 4)[0], k=None, seed=3)
    assert found.natural == 4
    assert found.left_over is not None
    assert found.left_over.shape == (800,)


def test_of_the_other_rows_those_near_a_row_left_over_are_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = blobs([100] * 6, spread=0.3)
    twice = features.repeat(2, 1)
    whole = find_clusters(features, k=None).left_over
    monkeypatch.setattr(hierarchy, "sample_rows", lambda n, at_most, seed: np.arange(n // 2))
    found = find_clusters(twice, k=None).left_over
    assert whole is not None
    assert found is not None
    assert whole.any()
    np.testing.assert_array_equal(found[:600], whole)
    assert (found[600:] == whole).mean() > 0.95  # a row's nearest leaf may be another than its own


@pytest.mark.parametrize("n", [2, 3, 9, 12])
def test_few_rows_have_a_tree(n: int) -> None:
    found = find_clusters(torch.randn(n, 8, generator=torch.Generator().manual_seed(0)), k=2)
    assert found.tree.cut(2).max() == 1
