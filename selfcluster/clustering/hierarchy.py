"""Clusters of features: a tree of clusters on the graph of neighbors, with the mean direction of each of its leaves.

The tree is found on a sample of at most 10,000 rows; the other rows belong to the leaf with the nearest mean. Time and memory are therefore
those of the sample, however many rows there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering.density import SHARED_NEIGHBORS, dense_groups
from selfcluster.clustering.neighbor_graph import graph_embedding, neighbor_graph, sample_rows, shared_neighbor_graph
from selfcluster.clustering.neighbors import nearest_centroids
from selfcluster.clustering.tree import Tree, ward

_MAX_ROWS = 10_000
"""Rows that clusters are found on; more are sampled."""
_N_EIGENVECTORS, _POWER = 48, 8
"""Eigenvectors of the graph, and the power of their eigenvalues, by which the tree embeds rows."""
_ROWS_PER_LEAF, _MOST_LEAVES = 5, 512
"""Rows in a leaf of the tree, on average, and the largest number of leaves."""
_FEWEST = 10
"""Rows below which the tree is built on the features, not on eigenvectors."""


@dataclass(frozen=True)
class Hierarchy:
    """A tree of clusters of features."""

    means: Float[Tensor, "l f"]
    """Mean direction of each leaf, of unit norm."""
    tree: Tree
    natural: int
    """Number of clusters that stand out; 1 if none do, or if they were not looked for."""
    left_over: Bool[np.ndarray, " n"] | None
    """Whether density left the row over, or the most similar row of its leaf that is in the sample; None if it was not asked."""


def find_clusters(features: Float[Tensor, "n f"], *, k: int | None, seed: int = 0) -> Hierarchy:
    """Cluster rows.

    Args:
        features: compared by cosine; center them first.
        k: number of clusters that the tree is to be cut to, at most as many as rows; None to look for their number by density.
        seed: random seed of the sample, if there are more than 10,000 rows.
    """
    sample = sample_rows(len(features), _MAX_ROWS, seed)
    rows = normalize(features[torch.from_numpy(sample)])
    n = len(rows)
    graph = neighbor_graph(rows)
    groups, left_over = np.zeros(n, dtype=np.int64), None
    if k is None:
        groups, left_over = dense_groups(graph, shared_neighbor_graph(rows, SHARED_NEIGHBORS))
    natural = int(groups.max()) + 1
    embedding = graph_embedding(graph, power=_POWER, n_vectors=_N_EIGENVECTORS) if n >= _FEWEST else rows.double().numpy()
    tree = ward(embedding, graph, groups)
    n_leaves = min(n, max(k or 0, natural, min(n // _ROWS_PER_LEAF, _MOST_LEAVES)))
    leaf = torch.from_numpy(tree.cut(n_leaves))
    means = normalize(torch.zeros(n_leaves, rows.shape[1]).index_add_(0, leaf, rows))
    if left_over is not None and n < len(features):
        of_sample, left_over = left_over, _of_nearest(left_over, features, rows, leaf, means)
        left_over[sample] = of_sample
    return Hierarchy(means, tree.top(n_leaves), natural, left_over)


def _of_nearest(
    flags: Bool[np.ndarray, " s"],
    features: Float[Tensor, "n f"],
    rows: Float[Tensor, "s f"],
    leaf: Int64[Tensor, " s"],
    means: Float[Tensor, "l f"],
) -> Bool[np.ndarray, " n"]:
    """Return the flag of the row of the sample that is nearest to each row of the features, within the leaf that is nearest."""
    nearest, _ = nearest_centroids(features, means, torch.arange(len(means)))
    found = np.zeros(len(features), dtype=bool)
    for number in nearest.unique().tolist():
        inside, members = (nearest == number).nonzero()[:, 0], (leaf == number).nonzero()[:, 0]
        found[inside.numpy()] = flags[members[(features[inside] @ rows[members].T).argmax(dim=1)].numpy()]
    return found
