"""Clusters as people look at them: the images most typical of each, those at its border, those that hardly belong.

All is taken from the cluster table and the features: how far an image lies from its centroid (distance), how much nearer it is to
its own centroid than to the next (margin), and how near the images of a cluster are to it on average (cohesion).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_SIZES = ((12, 8, 8), (6, 3, 3), (3, 2, 2))
"""Typical images, border cases and outliers in a gallery: the first for which the page has room, in whole rows."""


@dataclass(frozen=True)
class Cluster:
    """One cluster, with rows of the table."""

    number: int
    """As in the table."""
    size: int
    """Readable images."""
    cohesion: float
    """Mean cosine of its images with its centroid; 1 where all are the same."""
    typical: tuple[int, ...]
    """Lowest rank in the cluster, lowest first."""
    border: tuple[int, ...]
    """Smallest margin first."""
    outliers: tuple[int, ...]
    """Largest distance first."""
    similar: tuple[int, ...]
    """Numbers of the clusters whose mean features are nearest by cosine, nearest first."""
    label: str | None
    """The class of most of its labeled images; None where there are no labels."""
    label_share: float
    """Share of its labeled images that are of this class."""


def clusters_of(table: pa.Table, features: NDArray[np.float32], *, large: int, n_similar: int = 3) -> list[Cluster]:
    """Every cluster that has a readable image, the largest first.

    Args:
        table: see `Page`.
        features: see `Page`.
        large: images for which there are large thumbnails; galleries shrink to keep within it, to seven images at the least.
        n_similar: similar clusters to name.
    """
    cluster, rank, distance, margin = (table[name].to_numpy() for name in ("cluster", "rank_in_cluster", "distance", "margin"))
    readable = np.flatnonzero(cluster >= 0)
    order = readable[np.lexsort((rank[readable], cluster[readable]))]
    numbers, starts = np.unique(cluster[order], return_index=True)
    members = np.split(order, starts[1:])
    n_typical, n_border, n_outliers = next((sizes for sizes in _SIZES if len(numbers) * sum(sizes) <= large), _SIZES[-1])
    means = np.stack([_unit(features[rows]).mean(axis=0) for rows in members])
    similar = _similar(_unit(means), n_similar)
    labels = pc.dictionary_encode(table["label"]).combine_chunks() if "label" in table.column_names else None
    found = []
    for i, rows in enumerate(members):
        label, label_share = _label_of(labels, rows)
        typical = rows[:n_typical]
        others = rows[n_typical:]  # an image is shown once in a gallery
        outliers = others[np.argsort(-distance[others], kind="stable")][:n_outliers]
        others = np.setdiff1d(others, outliers)
        border = others[np.argsort(margin[others], kind="stable")][:n_border]
        found.append(
            Cluster(
                number=int(numbers[i]),
                size=len(rows),
                cohesion=float(1 - distance[rows].mean()),
                typical=tuple(typical.tolist()),
                border=tuple(border.tolist()),
                outliers=tuple(outliers.tolist()),
                similar=tuple(numbers[similar[i]].tolist()),
                label=label,
                label_share=label_share,
            )
        )
    return sorted(found, key=lambda c: (-c.size, c.number))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _similar(unit_means: NDArray[np.float32], n: int) -> list[NDArray[np.int64]]:
    """Places of the nearest other means, for each."""
    n = min(n, len(unit_means) - 1)
    found = []
    for i, mean in enumerate(unit_means):
        cosine = unit_means @ mean
        cosine[i] = -np.inf
        found.append(np.argsort(-cosine, kind="stable")[:n])
    return found


def _label_of(labels: pa.DictionaryArray | None, rows: NDArray[np.int64]) -> tuple[str | None, float]:
    """The most frequent label of these images, and its share of those that have one."""
    if labels is None:
        return None, 0.0
    codes = labels.indices.take(pa.array(rows)).drop_null().to_numpy()
    if not len(codes):
        return None, 0.0
    counts = np.bincount(codes)
    return labels.dictionary[int(counts.argmax())].as_py(), float(counts.max() / len(codes))


def rows_on_page(
    clusters: list[Cluster], more: NDArray[np.int64], readable: NDArray[np.int64], *, most: int, seed: int
) -> NDArray[np.int64]:
    """The images that the page shows, in the order of the data: all that are readable, or a sample of them with the galleries in it.

    Args:
        clusters: whose galleries are shown.
        more: other rows that are shown.
        readable: rows to choose from, rising.
        most: images on the page.
        seed: of the sample.
    """
    if len(readable) <= most:
        return readable
    shown = np.array([row for c in clusters for row in (*c.typical, *c.border, *c.outliers)], dtype=np.int64)
    first = np.unique(np.concatenate([shown, more]))
    others = np.setdiff1d(readable, first)
    n_others = max(0, most - len(first))
    return np.sort(np.concatenate([first, np.random.default_rng(seed).choice(others, size=n_others, replace=False)]))
