"""The tree of the clusters, for the page to cut: which images each node holds, how alike they are, and how near nodes are to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int8, Int64

from selfcluster.clustering.tree import Tree
from selfcluster.reporting.blocks import mean_row, unit_blocks, unit_sums

_DIRECTIONS = 48
"""Directions, those in which the leaves differ most, along which the page knows the images."""


@dataclass(frozen=True)
class TreeFigures:
    """Figures of the nodes: the leaves from 0 on, then what each merge makes."""

    merges: Int64[np.ndarray, "m 2"]
    """The two nodes of each merge."""
    given: Int64[np.ndarray, " l"]
    """Number of the cluster that each leaf belongs to in the table; -1 for a leaf without images."""
    sizes: Int64[np.ndarray, " nodes"]
    """Number of images."""
    cohesion: Float[np.ndarray, " nodes"]
    """Mean cosine of its images' centered features with their mean direction; 0 without images."""
    products: Float[np.ndarray, "l l"]
    """Products of the sums of the leaves' centered unit features, from which the page computes which clusters are similar."""
    labels: list[str | None]
    """Most frequent label of each node; None without labels."""
    label_shares: Float[np.ndarray, " nodes"]
    """Its share of the labeled images."""
    directions: Int8[np.ndarray, "n d"]
    """Centered unit features along the leading principal directions, in steps of `step`; from these the page ranks images within new clusters."""
    step: float


def tree_figures(tree: Tree, table: pa.Table, features: Float[np.ndarray, "n f"]) -> TreeFigures:
    """Return the figures of a tree.

    Args:
        tree: of the centroids in the table.
        table: as for `Page`, with the column centroid.
        features: as for `Page`.
    """
    leaf, cluster = (table[name].to_numpy().astype(np.int64) for name in ("centroid", "cluster"))
    rows, n_leaves = np.flatnonzero(leaf >= 0), tree.n_leaves
    center = mean_row(features, rows)
    sums = unit_sums(features, leaf, n_leaves, center)
    axes = torch.linalg.svd(sums.double(), full_matrices=False).Vh[:_DIRECTIONS].float()
    along = np.zeros((len(table), len(axes)), dtype=np.float32)
    for part, unit in unit_blocks(features, rows, center):
        along[part] = (unit @ axes.T).numpy()
    step = max(float(np.abs(along).max(initial=0)), 1e-12) / 127
    given = np.full(n_leaves, -1)
    given[leaf[rows]] = cluster[rows]
    in_nodes = _in_nodes(tree)
    sizes = in_nodes @ np.bincount(leaf[rows], minlength=n_leaves)
    lengths = np.linalg.norm(in_nodes @ sums.double().numpy(), axis=1)
    labels, shares = _labels(table, leaf, in_nodes)
    return TreeFigures(
        merges=tree.merges,
        given=given,
        sizes=sizes.astype(np.int64),
        cohesion=lengths / sizes.clip(min=1),
        products=(sums @ sums.T).double().numpy(),
        labels=labels,
        label_shares=shares,
        directions=np.round(along / step).astype(np.int8),
        step=step,
    )


def _in_nodes(tree: Tree) -> Float[np.ndarray, "nodes l"]:
    """Return which leaves each node holds, as ones."""
    in_nodes = np.zeros((tree.n_leaves + len(tree.merges), tree.n_leaves))
    in_nodes[: tree.n_leaves] = np.eye(tree.n_leaves)
    for place, merge in enumerate(tree.merges, start=tree.n_leaves):
        in_nodes[place] = in_nodes[merge].sum(axis=0)
    return in_nodes


def _labels(
    table: pa.Table, leaf: Int64[np.ndarray, " n"], in_nodes: Float[np.ndarray, "nodes l"]
) -> tuple[list[str | None], Float[np.ndarray, " nodes"]]:
    """Return the most frequent label of each node, and its share of the labeled images."""
    n_nodes, n_leaves = in_nodes.shape
    if "label" not in table.column_names:
        return [None] * n_nodes, np.zeros(n_nodes)
    encoded = pc.dictionary_encode(table["label"]).combine_chunks()
    codes = pc.fill_null(encoded.indices, -1).to_numpy()
    is_labeled = (codes >= 0) & (leaf >= 0)
    of_leaves = np.zeros((n_leaves, len(encoded.dictionary)))
    np.add.at(of_leaves, (leaf[is_labeled], codes[is_labeled]), 1)
    if not of_leaves.size:
        return [None] * n_nodes, np.zeros(n_nodes)
    counts = in_nodes @ of_leaves
    total, most = counts.sum(axis=1), counts.argmax(axis=1)
    names = encoded.dictionary.to_pylist()
    return [names[i] if n else None for i, n in zip(most.tolist(), total.tolist(), strict=True)], counts.max(axis=1) / total.clip(min=1)
