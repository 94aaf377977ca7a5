"""Groups by density on a graph of nearest neighbors; their number is found, not given.

HDBSCAN finds dense groups of rows, embedded by the graph's leading eigenvectors. It splits what is spread evenly into many; so groups are
merged while a tenth of the neighbors of one belong to another. Rows that no group contains go with most of their neighbors.

Source: spectral embedding, Ng, Jordan and Weiss 2001; HDBSCAN, Campello, Moulavi and Sander 2013; the order of merges is that of Bonald et
al., "Hierarchical graph clustering using node pair sampling", arXiv 1806.01664, with a smaller exponent. Deviations: the number of groups.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_array
from sklearn.cluster import HDBSCAN

from selfcluster.clustering.neighbor_graph import graph_embedding

SHARED_NEIGHBORS = 20
"""Neighbors of each row in the graph that decides on merges."""
_POWER = 8
"""Power of the eigenvalues of the graph; larger values smooth more."""
_MIN_SIZE, _MIN_SAMPLES = 12, 5
"""Smallest number of rows in a dense group; neighbors by whose distance density is measured."""
_FEWEST = 10
"""Rows below which nothing is dense."""
_LEAK, _STRICT_LEAK = 0.1, 0.06
"""Groups are merged while this share of the smaller one's neighbors belongs to the other. Where the stricter share leaves one group, as it
does where rows are spread evenly, none stands out."""
_EXPONENT = 0.9
"""Of the sizes in the similarity of two groups, which is the weight between them over the product of their sizes; 1 in the paper."""

Groups = Int64[np.ndarray, " n"]
_Weights = Float[np.ndarray, "g g"]


def dense_groups(graph: csr_array, shared: csr_array) -> tuple[Groups, Bool[np.ndarray, " n"]]:
    """Return the group of each row, numbered from 0, and whether density left the row over.

    All rows are in group 0, and none is left over, if no two groups are dense.

    Args:
        graph: nearest neighbors by cosine.
        shared: weighted by shared neighbors.
    """
    n = graph.shape[0]
    one_group = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    if n < _FEWEST:
        return one_group
    dense = HDBSCAN(min_cluster_size=min(_MIN_SIZE, max(2, n // 10)), min_samples=min(_MIN_SAMPLES, n // 2), copy=True)
    found = dense.fit_predict(graph_embedding(graph, power=_POWER)).astype(np.int64)
    if found.max() < 1:
        return one_group
    groups = _with_neighbors(found, shared)
    between = _between(groups, shared)
    by_leak = _merges(between, lambda weights, sizes: weights / np.minimum(sizes[:, None], sizes))
    leaks = np.minimum.accumulate([leak for *_, leak in by_leak])
    n_groups, n_strict = (len(between) - int((leaks >= share).sum()) for share in (_LEAK, _STRICT_LEAK))
    if n_strict == 1:
        return one_group
    order = _merges(between, lambda weights, sizes: (weights + 1e-12) / (sizes[:, None] * sizes) ** _EXPONENT)
    name = np.arange(len(between))
    for kept, gone, _ in order[: len(between) - n_groups]:
        name[name == gone] = kept
    return np.unique(name[groups], return_inverse=True)[1], found < 0


def _with_neighbors(groups: Groups, graph: csr_array) -> Groups:
    """Return the groups with each row that had none (-1) in the group that most of its weight leads to, step by step from their rims."""
    groups, n_groups = groups.copy(), int(groups.max()) + 1
    while (left := np.flatnonzero(groups < 0)).size:
        inside = np.flatnonzero(groups >= 0)
        members = csr_array((np.ones(len(inside)), (inside, groups[inside])), shape=(len(groups), n_groups))
        weight = (graph[left] @ members).toarray()
        reached = weight.max(axis=1) > 0
        if not reached.any():
            groups[left] = int(np.bincount(groups[inside]).argmax())  # nothing leads from them to a group
            break
        groups[left[reached]] = weight[reached].argmax(axis=1)
    return groups


def _between(groups: Groups, graph: csr_array) -> _Weights:
    """Return the weight between every two groups, as a share of the whole; within a group on the diagonal."""
    members = csr_array((np.ones(len(groups)), (np.arange(len(groups)), groups)))
    weights = (members.T @ graph @ members).toarray()
    return weights / weights.sum()


def _merges(between: _Weights, similarity: Callable[[_Weights, Float[np.ndarray, " g"]], _Weights]) -> list[tuple[int, int, float]]:
    """Merge the two most similar groups until one is left; return each merge: the group that stays, the one that goes, their similarity."""
    weights, sizes, live, merges = between.copy(), between.sum(axis=1), np.arange(len(between)), []
    while len(live) > 1:
        scores = similarity(weights[np.ix_(live, live)], sizes[live])
        np.fill_diagonal(scores, -1)
        row, column = np.unravel_index(scores.argmax(), scores.shape)
        kept, gone = live[row], live[column]
        merges.append((int(kept), int(gone), float(scores[row, column])))
        weights[kept] += weights[gone]
        weights[:, kept] += weights[:, gone]
        sizes[kept] += sizes[gone]
        live = np.delete(live, column)
    return merges
