"""Clusters of images and a page of them, without a network: the features are the pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from selfcluster.clustering.duplicates import thumbnails
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.tree import Tree, means_of, ward_of_means
from selfcluster.data.readers.images import Images
from selfcluster.inference.copies import find_copies
from selfcluster.models.features import raw_pixels
from selfcluster.reporting.page import Page
from selfcluster.runs.environment import Environment
from tests import tiny


@dataclass(frozen=True)
class Clustered:
    """A table of clusters, the features of its images, and the tree of its centroids."""

    table: pa.Table
    features: NDArray[np.float32]
    tree: Tree


def clustered(images: Images, k: int = 4, features: NDArray[np.float32] | None = None, labels: list[str | None] | None = None) -> Clustered:
    """Cluster images by k-means; the map shows their two principal components."""
    features = raw_pixels(images, pixels=8).numpy() if features is None else features
    rows = np.flatnonzero(~np.isnan(features).any(axis=1))
    known = normalize(torch.from_numpy(features[rows]))
    found = kmeans(known, k, init="k-means++", spherical=True)
    nearest = 1 - (known @ normalize(found.centroids).T).topk(2, dim=1).values
    assignments = found.assignments.numpy()
    rank = np.empty(len(rows), dtype=np.int32)
    for cluster in range(k):
        members = np.flatnonzero(assignments == cluster)
        rank[members[np.argsort(nearest[members, 0].numpy())]] = np.arange(len(members))
    centered = known - known.mean(dim=0)
    plane = (centered @ torch.linalg.svd(centered, full_matrices=False).Vh[:2].T).numpy()

    def scattered(values: NDArray, missing: float, kind: type) -> NDArray:
        column = np.full(len(features), missing, dtype=kind)
        column[rows] = values
        return column

    columns: dict[str, Any] = {
        "path": images.paths().cast(pa.string()),
        "index": np.arange(len(features), dtype=np.int64),
        "cluster": scattered(assignments, -1, np.int32),
        "centroid": scattered(assignments, -1, np.int32),
        "distance": scattered(nearest[:, 0].numpy(), np.nan, np.float32),
        "margin": scattered((nearest[:, 1] - nearest[:, 0]).numpy(), np.nan, np.float32),
        "rank_in_cluster": scattered(rank, -1, np.int32),
        "x": scattered(plane[:, 0], np.nan, np.float32),
        "y": scattered(plane[:, 1], np.nan, np.float32),
        "is_outlier": scattered(nearest[:, 0].numpy() > np.quantile(nearest[:, 0].numpy(), 0.99), False, np.bool_),
    }
    looks = raw_pixels(images, pixels=thumbnails.side)[rows]
    copies = find_copies(images, rows, known, looks, threads=1)
    first = scattered(np.where(copies.first >= 0, rows[copies.first], -1), -1, np.int64)
    columns["duplicate_of"] = pa.array(first, mask=first < 0)
    columns["copy"] = pa.array(scattered(np.array(copies.kinds, dtype=object), 0, object), type=pa.string(), mask=first < 0)
    if labels is not None:
        columns["label"] = pa.array(labels, type=pa.string())
    return Clustered(pa.table(columns), features, ward_of_means(*means_of(centered.double().numpy(), assignments, k)))


def page(images: Images, made: Clustered | None = None, **changed: Any) -> Page:
    """Return a page of these images."""
    made = made or clustered(images)
    given: dict[str, Any] = dict(
        name="tiny",
        where="",
        config=tiny.config("swav"),
        metrics=[],
        environment=Environment(),
        evaluation=None,
        table=made.table,
        features=made.features,
        images=images,
        tree=made.tree,
    )
    return Page(**{**given, **changed})
