"""Figures of the nodes of the tree on the page."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import normalize

from selfcluster.clustering.tree import Tree
from selfcluster.reporting.tree import tree_figures

TREE = Tree(np.array([[0, 1], [3, 2]]))
LEAF = [0, 0, 1, 2, 2, -1]
FEATURES = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
TABLE = pa.table({"centroid": LEAF, "cluster": [1, 1, 1, 0, 0, -1], "label": ["a", None, "b", "b", "b", "a"]})


def test_nodes_hold_the_images_of_their_leaves() -> None:
    found = tree_figures(TREE, TABLE, FEATURES)
    assert found.sizes.tolist() == [2, 1, 2, 3, 5]
    assert found.given.tolist() == [1, 1, 0]
    assert found.labels == ["a", "b", "b", "a", "b"]
    assert found.label_shares.tolist() == pytest.approx([1, 1, 1, 0.5, 0.75])


def test_cohesion_and_directions_are_those_of_centered_features() -> None:
    found = tree_figures(TREE, TABLE, FEATURES)
    rows = torch.from_numpy(FEATURES[:5])
    unit = normalize(rows - rows.mean(dim=0))
    for node, members in {0: [0, 1], 3: [0, 1, 2], 4: [0, 1, 2, 3, 4]}.items():
        assert found.cohesion[node] == pytest.approx(float(unit[members].mean(dim=0).norm()), abs=1e-6)
    directions = torch.from_numpy(found.directions[:5].astype(np.float32)) * found.step
    # All three leaves lie in the three directions, so that products with them are exact but for rounding.
    for members in ([0, 1], [0, 1, 2], [0, 1, 2, 3, 4]):
        expected = unit[:5] @ unit[members].sum(dim=0)
        assert (directions @ directions[members].sum(dim=0)).numpy() == pytest.approx(expected.numpy(), abs=0.05 * len(members))
    assert found.products[0, 2] == pytest.approx(float(unit[:2].sum(dim=0) @ unit[3:5].sum(dim=0)), abs=1e-5)


def test_a_leaf_without_images_and_no_labels() -> None:
    table = pa.table({"centroid": [0, 0, 2, 2, 2, -1], "cluster": [0, 0, 1, 1, 1, -1]})
    found = tree_figures(TREE, table, FEATURES)
    assert found.sizes.tolist() == [2, 0, 3, 2, 5]
    assert found.given.tolist() == [0, -1, 1]
    assert found.labels == [None] * 5
    assert np.isfinite(found.cohesion).all()
