"""Nested clusterings of rows: a tree of merges, by Ward's criterion among neighbors.

A cut to k clusters undoes the last k - 1 merges, so that a finer cut only splits clusters of a coarser one.

Source: Ward, 1963, on rows embedded by the eigenvectors of their graph of neighbors; only neighboring clusters merge.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from scipy.sparse import csr_array
from sklearn.cluster import ward_tree


@dataclass(frozen=True)
class Tree:
    """How the finest clusters, the leaves, merge; they are numbered from 0."""

    merges: Int64[np.ndarray, "m 2"]
    """The two clusters of each merge, in order. Merge i makes cluster m + 1 + i, as in SciPy's linkage."""

    @property
    def n_leaves(self) -> int:
        """Number of finest clusters."""
        return len(self.merges) + 1

    def cut(self, k: int) -> Int64[np.ndarray, " l"]:
        """Return the cluster of each leaf when k clusters are left, numbered from 0.

        Args:
            k: from 1 to `n_leaves`.
        """
        n, n_merged = self.n_leaves, self.n_leaves - k
        top = np.arange(n + n_merged)
        for merge in reversed(range(n_merged)):
            top[self.merges[merge]] = top[n + merge]
        return np.unique(top[:n], return_inverse=True)[1]

    def top(self, k: int) -> Tree:
        """Return the tree whose leaves are the k clusters of the cut to k, as this numbers them."""
        n_merged = self.n_leaves - k
        number = np.full(self.n_leaves + len(self.merges), -1)
        number[: self.n_leaves] = self.cut(k)
        for merge in range(n_merged):
            number[self.n_leaves + merge] = number[self.merges[merge, 0]]
        number[self.n_leaves + n_merged :] = np.arange(k, 2 * k - 1)
        return Tree(number[self.merges[n_merged:]])


def ward(embedding: Float[np.ndarray, "n e"], graph: csr_array, groups: Int64[np.ndarray, " n"]) -> Tree:
    """Return the tree of the rows; its cut to as many clusters as groups is the groups.

    Args:
        embedding: from `graph_embedding`.
        graph: which rows are neighbors.
        groups: rows that merge with each other before they merge with others, numbered from 0; all 0 for none.
    """
    n, n_within = len(embedding), 0
    within: list[np.ndarray] = []
    roots: list[int] = []
    for group in range(groups.max() + 1):
        rows = np.flatnonzero(groups == group)
        merges, heights = _neighbors_first(embedding[rows], graph[rows][:, rows])
        # Numbered apart for each group, from n on; a merge by neighbors can be lower than those that it contains.
        names = np.concatenate([rows, n + n_within + np.arange(len(merges))])
        within.append(np.column_stack([np.maximum.accumulate(heights), names[merges], names[len(rows) :]]))
        n_within += len(merges)
        roots.append(names[-1])
    by_height = np.concatenate(within)
    by_height = by_height[np.argsort(by_height[:, 0], kind="stable")]
    number = np.arange(2 * n - 1)
    number[by_height[:, 3].astype(np.int64)] = n + np.arange(len(by_height))
    above = ward_of_means(*means_of(embedding, groups, len(roots))).merges
    tops = np.concatenate([number[np.array(roots, dtype=np.int64)], n + len(by_height) + np.arange(len(above))])
    return Tree(np.concatenate([number[by_height[:, 1:3].astype(np.int64)], tops[above]]))


def _neighbors_first(embedding: Float[np.ndarray, "n e"], graph: csr_array) -> tuple[Int64[np.ndarray, "m 2"], Float[np.ndarray, " m"]]:
    """Return Ward's merges of neighbors, as SciPy's linkage numbers them, and their heights."""
    if len(embedding) < 2:
        return np.empty((0, 2), dtype=np.int64), np.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # parts of the graph that nothing connects are joined where they are nearest
        merges, _, _, _, heights = ward_tree(embedding, connectivity=graph, return_distance=True)
    return merges.astype(np.int64), heights


def ward_of_means(means: Float[np.ndarray, "g e"], sizes: Float[np.ndarray, " g"]) -> Tree:
    """Return the tree of groups by Ward's criterion, from their means and their numbers of rows; empty groups merge first.

    The cost of every pair is kept, and updated by the formula of Lance and Williams, so that time and memory grow with the square of the groups.
    """
    n, sizes = len(means), sizes.clip(min=1e-9)
    squares = (means**2).sum(axis=1)
    distance = (squares[:, None] + squares - 2 * means @ means.T).clip(min=0)
    costs = distance * (sizes[:, None] * sizes / (sizes[:, None] + sizes))
    np.fill_diagonal(costs, np.inf)
    number, nearest, merges = np.arange(n), costs.argmin(axis=1), []
    lowest = costs[np.arange(n), nearest]
    for merge in range(n - 1):
        a = int(lowest.argmin())
        b = int(nearest[a])
        merges.append(sorted((number[a], number[b])))
        others = (sizes[a] + sizes) * costs[a] + (sizes[b] + sizes) * costs[b] - sizes * costs[a, b]
        row = others / (sizes[a] + sizes[b] + sizes)
        row[[a, b]] = np.inf
        number[a], sizes[a] = n + merge, sizes[a] + sizes[b]
        costs[a], costs[:, a], costs[b], costs[:, b] = row, row, np.inf, np.inf
        lowest[b] = np.inf
        is_closer = row < lowest
        nearest[is_closer], lowest[is_closer] = a, row[is_closer]
        for left in [*np.flatnonzero(np.isin(nearest, (a, b)) & ~is_closer & (lowest < np.inf)).tolist(), a]:
            nearest[left] = costs[left].argmin()
            lowest[left] = costs[left, nearest[left]]
    return Tree(np.array(merges, dtype=np.int64).reshape(-1, 2))


def means_of(
    rows: Float[np.ndarray, "n e"], groups: Int64[np.ndarray, " n"], n_groups: int
) -> tuple[Float[np.ndarray, "g e"], Float[np.ndarray, " g"]]:
    """Return the mean of each group, zeros for an empty one, and its number of rows."""
    sizes = np.bincount(groups, minlength=n_groups).astype(np.float64)
    sums = np.zeros((n_groups, rows.shape[1]))
    np.add.at(sums, groups, rows)
    return sums / sizes.clip(min=1)[:, None], sizes
