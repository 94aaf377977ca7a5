"""Clusters of images: the cluster of each image, how typical it is of it, and its position on a map.

Images are compared with centroids by cosine: with the method's own prototypes in the space of embeddings, or, for a given number of
clusters, with k-means centroids in the space of features. The centroids are saved in the run's folder, so that new images can be assigned
to the same clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import distributed
from selfcluster.clustering.duplicates import duplicates_of
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.n_clusters import Candidate, choose_n_clusters
from selfcluster.clustering.neighbors import nearest_neighbors, nearest_two
from selfcluster.clustering.outliers import fit_outlier_model
from selfcluster.clustering.projection import Projection, check_projection, project
from selfcluster.data.dataset import Data
from selfcluster.distributed import logger
from selfcluster.errors import CheckpointError, ConfigError, DataError
from selfcluster.inference.centroids import Centroids, read_centroids, write_centroids
from selfcluster.inference.cluster_table import cluster_table, write_table
from selfcluster.inference.embeddings import embeddings_of, in_layer
from selfcluster.models.model import Prototypes
from selfcluster.runs.folder import check_writable
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import Layer, NClusters

_ROWS = 8192
"""Rows classified at a time by DeepCluster's top layer."""


@dataclass(frozen=True)
class Summary:
    """Figures of one cluster."""

    cluster: int
    size: int
    cohesion: float
    """Mean cosine of its images with its centroid."""
    nearest: tuple[int, ...]
    """The three clusters, not counting empty ones, whose centroids are nearest, nearest first."""


@dataclass(frozen=True)
class Clusters:
    """All images in their clusters."""

    table: pa.Table
    """A row for each image, in the order of the data: path, index, cluster (-1 if unreadable), distance (1 - cosine with the centroid), margin
    (how much farther the next centroid is), rank_in_cluster (0 for the most typical), x and y (position on the map), is_outlier (far from all
    clusters, as 1 % are; see `outliers.fit_outlier_model`), duplicate_of (index of an earlier copy, or null), and label if labels are known."""
    features: Float[NDArray[np.float32], "n f"]
    """Output of the encoder; NaN for an unreadable image."""
    centroids: Centroids
    summaries: tuple[Summary, ...]
    """Clusters that are not empty, largest first."""
    tried: tuple[Candidate, ...] = ()
    """Numbers of clusters that were tried, if k was "auto"."""

    def __repr__(self) -> str:
        return f"Clusters({len(self.table):,} images in {len(self.summaries):,} clusters, the largest of {self.summaries[0].size:,})"


@dataclass(frozen=True)
class Assignment:
    """New images in the clusters of a run."""

    table: pa.Table
    """A row for each image: path, index, cluster (-1 if unreadable), distance, margin, rank_in_cluster (among these images), is_outlier (far
    from all clusters, so that it may belong to none), and label if labels are known."""

    def __repr__(self) -> str:
        clusters, n_outliers = self.table["cluster"].to_numpy(), pc.sum(self.table["is_outlier"]).as_py()
        return f"Assignment({len(clusters):,} images in {len(np.unique(clusters[clusters >= 0])):,} clusters, {n_outliers:,} outliers)"


def cluster(
    run: OpenRun,
    images: Any = None,
    *,
    k: NClusters = None,
    seed: int = 0,
    projection: Projection = "pca",
    keep: bool = False,
) -> Clusters:
    """Put every image in a cluster.

    Args:
        run: provides the encoder and the prototypes.
        images: anything that `train` accepts; None for the run's own.
        k: None for the method's own prototypes (the first head's, if there are several; for DeepCluster, the mean features of its top layer's
            classes); a number for that many clusters by spherical k-means on features, the best of 10 starts; "auto" for the number with
            the best silhouette, see `choose_n_clusters`.
        seed: random seed of k-means and of the map.
        projection: method of the map: "pca" or "umap" (extra `umap`).
        keep: save the clusters in the run's folder, for `assign` and the report; see `write_clusters`.
    Raises:
        ConfigError: k below 1, or umap is not installed.
        DataError: fewer readable images than clusters.
    """
    check_projection(projection)
    if keep:
        check_writable(run.path)
    if isinstance(k, int) and k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    with distributed.alone():
        data = run.data(images)
        _check_enough(len(data.images), k, data)
        found = embeddings_of(run, data.images)
        readable = np.flatnonzero(~np.isnan(found.features[:, 0]))
        _check_enough(len(readable), k, data)
        features = torch.from_numpy(found.features[readable])
        tried: tuple[Candidate, ...] = ()
        if k == "auto" and run.config.method == "explore":
            k = None  # the prototypes are as many as were found by density
        if k == "auto":
            logger.info(f"trying numbers of clusters on {len(readable):,} images")
            k, tried = choose_n_clusters(features, seed=seed, device=run.device)
        layer, vectors = _find_centroids(run, features, k, seed)
        assignments, distances, margins = nearest_two(in_layer(run, features, layer), vectors)
        outliers, outlier_distances = fit_outlier_model(features, assignments, seed=seed)
        table = cluster_table(
            data,
            readable,
            assignments,
            distances,
            margins,
            outlier_distances > outliers.limit,
            places=project(features, projection, seed=seed),
            duplicate_of=duplicates_of(features, found.thumbnails[readable], assignments),
        )
        centroids = Centroids(vectors, layer, outliers, run.step, data.images.digest())
        clusters = Clusters(table, found.features, centroids, _summaries(vectors, assignments, distances), tried)
        if keep:
            write_clusters(clusters, run.path)
        return clusters


def assign(run: OpenRun, images: Any) -> Assignment:
    """Put new images in the clusters that `cluster` has saved in the run's folder.

    Raises:
        CheckpointError: there are no clusters yet, or the run has been trained since.
    """
    centroids = read_centroids(run.path)
    if centroids.step != run.step:
        raise CheckpointError(
            f"the clusters of {str(run.path)!r} are of step {centroids.step:,}, but its network is of step {run.step:,}; run selfcluster cluster {run.path} again"
        )
    with distributed.alone():
        data = run.data(images)
        rows = torch.from_numpy(embeddings_of(run, data.images).features)
        readable = np.flatnonzero(~rows[:, 0].isnan().numpy())
        if len(readable) == 0:
            raise DataError(_none_readable(data))
        features = rows[torch.from_numpy(readable)]
        nearest = nearest_two(in_layer(run, features, centroids.layer), centroids.vectors)
        return Assignment(cluster_table(data, readable, *nearest, centroids.outliers.distances(features) > centroids.outliers.limit))


def write_clusters(found: Clusters, folder: Path) -> None:
    """Write clusters.parquet and, for `assign`, clusters.safetensors to the run's folder."""
    write_centroids(found.centroids, folder)
    write_table(found.table, folder / "clusters.parquet")


def spherical_centroids(points: Float[Tensor, "n f"], k: int, *, seed: int, device: torch.device) -> Float[Tensor, "k f"]:
    """Return unit centroids by spherical k-means, the best of 10 starts, on the CPU."""
    found = kmeans(points, k, spherical=True, init="k-means++", n_init=10, iterations=100, tolerance=1e-4, seed=seed, device=device)
    return normalize(found.centroids).cpu()


@torch.no_grad()
def _find_centroids(run: OpenRun, features: Float[Tensor, "n f"], k: int | None, seed: int) -> tuple[Layer, Float[Tensor, "k d"]]:
    """Return centroids, by k-means or the method's own, and the layer in which images are compared with them."""
    if k is not None:
        layer: Layer = "head" if run.config.method == "explore" else "features"  # the head centers features
        return layer, spherical_centroids(in_layer(run, features, layer), k, seed=seed, device=run.device)
    prototypes = run.model.prototypes
    if isinstance(prototypes, Prototypes):
        return "head", prototypes.heads()[0].detach().cpu().clone()
    classes = torch.cat([prototypes(part.to(run.device))[0].argmax(dim=1).cpu() for part in features.split(_ROWS)])
    sums = torch.zeros(int(classes.max()) + 1, features.shape[1]).index_add_(0, classes, normalize(features))
    return "features", normalize(sums[torch.bincount(classes) > 0])


def _check_enough(n: int, k: NClusters, data: Data) -> None:
    if n == 0:
        raise DataError(_none_readable(data))
    if isinstance(k, int) and n < k:
        raise DataError(f"{n:,} images are fewer than {k:,} clusters; lower k, or give more images")
    if n < 2:
        raise DataError("one image cannot be clustered; give more images")


def _none_readable(data: Data) -> str:
    return f"none of {len(data.images):,} images can be read (first: {data.images.path(0)!r})"


def _summaries(vectors: Float[Tensor, "k d"], assignments: Int64[Tensor, " n"], distances: Float[Tensor, " n"]) -> tuple[Summary, ...]:
    sizes = torch.bincount(assignments, minlength=len(vectors))
    cohesion = 1 - torch.zeros(len(vectors)).index_add_(0, assignments, distances) / sizes.clamp(min=1)
    used = (sizes > 0).nonzero()[:, 0]
    neighbors = used[nearest_neighbors(vectors[used], 3)[0]]
    found = (
        Summary(cluster, int(sizes[cluster]), float(cohesion[cluster]), tuple(nearest))
        for cluster, nearest in zip(used.tolist(), neighbors.tolist(), strict=True)
    )
    return tuple(sorted(found, key=lambda summary: (-summary.size, summary.cluster)))
