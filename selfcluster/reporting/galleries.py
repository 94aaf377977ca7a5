"""Galleries of clusters: the most typical images, border cases, and the least typical images.

All follow from the table of clusters and the features: distance of an image to the mean direction of its cluster, margin to the next
cluster, and cohesion of a cluster, the mean cosine of its images with that direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfcluster.clustering.neighbors import nearest_neighbors
from selfcluster.reporting.blocks import unit_sums

_SIZES = ((12, 8, 8), (6, 3, 3), (3, 2, 2))
"""Typical images, border cases and least typical images of a gallery, in full rows; the first that fits the page is used."""


@dataclass(frozen=True)
class ClusterGallery:
    """A cluster and its gallery, as rows of the table; no image is shown twice."""

    number: int
    """Number of the cluster in the table."""
    name: str
    """Its name in the table; "" if it has none."""
    size: int
    """Number of readable images."""
    cohesion: float
    """Mean cosine of the images with their mean direction; 1 if all are alike."""
    typical: tuple[int, ...]
    """Lowest rank in the cluster, lowest first."""
    border: tuple[int, ...]
    """Smallest margin, smallest first."""
    least_typical: tuple[int, ...]
    """Largest distance, largest first."""
    similar: tuple[int, ...]
    """Numbers of the clusters with the nearest mean features by cosine, nearest first."""
    label: str | None
    """Most frequent label; None without labels."""
    label_share: float
    """Share of the labeled images that have this label."""

    @property
    def rows(self) -> tuple[int, ...]:
        """All images of the gallery."""
        return self.typical + self.border + self.least_typical


def cluster_galleries(table: pa.Table, features: NDArray[np.float32], *, n_large: int, n_similar: int = 3) -> list[ClusterGallery]:
    """Return a gallery for each cluster with a readable image, largest first.

    Args:
        table: as for `Page`.
        features: as for `Page`.
        n_large: images with a large thumbnail; galleries shrink to stay within it, down to seven images.
        n_similar: similar clusters to name.
    """
    cluster, rank, distance, margin = (table[name].to_numpy() for name in ("cluster", "rank_in_cluster", "distance", "margin"))
    readable = np.flatnonzero(cluster >= 0)
    order = readable[np.lexsort((rank[readable], cluster[readable]))]
    numbers, starts = np.unique(cluster[order], return_index=True)
    members = np.split(order, starts[1:])
    n_typical, n_border, n_least = next((sizes for sizes in _SIZES if len(numbers) * sum(sizes) <= n_large), _SIZES[-1])
    place = np.full(len(table), -1)
    place[order] = np.repeat(np.arange(len(members)), [len(rows) for rows in members])
    means = unit_sums(features, place, len(members))
    similar = numbers[nearest_neighbors(means, n_similar)[0].numpy()]
    labels = pc.dictionary_encode(table["label"]).combine_chunks() if "label" in table.column_names else None
    galleries = []
    for i, rows in enumerate(members):
        label, label_share = _most_frequent_label(labels, rows) if labels is not None else (None, 0.0)
        others = rows[n_typical:]
        least_typical = others[np.argsort(-distance[others], kind="stable")][:n_least]
        others = np.setdiff1d(others, least_typical)
        border = others[np.argsort(margin[others], kind="stable")][:n_border]
        galleries.append(
            ClusterGallery(
                number=int(numbers[i]),
                name=(table["name"][int(rows[0])].as_py() or "") if "name" in table.column_names else "",
                size=len(rows),
                cohesion=float(1 - distance[rows].mean()),
                typical=tuple(rows[:n_typical].tolist()),
                border=tuple(border.tolist()),
                least_typical=tuple(least_typical.tolist()),
                similar=tuple(similar[i].tolist()),
                label=label,
                label_share=label_share,
            )
        )
    return sorted(galleries, key=lambda gallery: (-gallery.size, gallery.number))


def _most_frequent_label(labels: pa.DictionaryArray, rows: NDArray[np.int64]) -> tuple[str | None, float]:
    """Return the most frequent label of these images, and its share of the labeled ones."""
    codes = labels.indices.take(pa.array(rows)).drop_null().to_numpy()
    if not len(codes):
        return None, 0.0
    counts = np.bincount(codes)
    return labels.dictionary[int(counts.argmax())].as_py(), float(counts.max() / len(codes))


def sample_rows(readable: NDArray[np.int64], required: Sequence[int], *, n_points: int, seed: int) -> NDArray[np.int64]:
    """Return the images to show, ascending: all readable ones, or a random sample that includes the required ones.

    Args:
        readable: rows to choose from, ascending.
        required: rows of galleries; all are returned, even if they are more than `n_points`.
        n_points: images to show.
        seed: random seed of the sample.
    """
    if len(readable) <= n_points:
        return readable
    first = np.unique(np.array(required, dtype=np.int64))
    others = np.setdiff1d(readable, first)
    chosen = np.random.default_rng(seed).choice(others, size=max(0, n_points - len(first)), replace=False)
    return np.sort(np.concatenate([first, chosen]))
