"""Clusters of images: the cluster of each image, how typical it is of it, and its position on a map.

An image belongs to the nearest of many centroids by cosine: the method's own prototypes in the space of embeddings, or the finest clusters
of a tree in the space of centered features. One or several centroids make up a cluster. Centroids and tree are saved in the run's folder, so
that new images can be assigned to the same clusters, and the clusters be cut finer or coarser, named, merged and split.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import distributed
from selfcluster.clustering.hierarchy import find_clusters
from selfcluster.clustering.neighbors import nearest_centroids, nearest_neighbors
from selfcluster.clustering.outliers import fit_outlier_model
from selfcluster.clustering.projection import Projection, check_projection, project
from selfcluster.clustering.tree import Tree, means_of, ward_of_means
from selfcluster.data.dataset import Data
from selfcluster.device import n_threads
from selfcluster.distributed import logger
from selfcluster.errors import CheckpointError, ConfigError, DataError
from selfcluster.formatting import command, n_images
from selfcluster.inference.centroids import Centroids, by_size, read_centroids, write_centroids
from selfcluster.inference.cluster_table import GUESSED, TABLE, cluster_table, read_table, write_table
from selfcluster.inference.copies import find_copies
from selfcluster.inference.embeddings import Embeddings, embeddings_of, in_layer
from selfcluster.inference.names import write_names
from selfcluster.models.heads import Prototypes
from selfcluster.runs.folder import check_writable
from selfcluster.runs.manifest import has_manifest
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import Layer, NClusters

_ROWS = 8192
"""Rows that are computed at a time."""


@dataclass(frozen=True)
class Summary:
    """Figures of one cluster."""

    cluster: int
    name: str
    """"" if it has none."""
    size: int
    cohesion: float
    """Mean cosine of its images' centered features with their mean direction: 1 if all are alike."""
    nearest: tuple[int, ...]
    """The three clusters, not counting empty ones, whose mean directions are nearest, nearest first."""


@dataclass(frozen=True)
class Clusters:
    """All images in their clusters, which are numbered by size, 0 the largest."""

    table: pa.Table
    """A row for each image, in the order of the data: path, index, cluster (-1 if unreadable), name (null if the cluster has none), centroid
    (the nearest one; several make up a cluster), distance (1 - cosine of the centered features with the cluster's mean direction), margin
    (how much farther the nearest centroid of another cluster is), rank_in_cluster (0 for the most typical), is_outlier (unlike the other
    images, as 1 % are; see `outliers.fit_outlier_model`), is_odd (no dense group of like images contains it, so it is in the nearest cluster;
    null where the number of clusters was given), x and y (position on the map), duplicate_of (index of an earlier copy, or null),
    copy (what kind of copy; see `copies.Copies`), and label if labels are known."""
    features: Float[np.ndarray, "n f"]
    """Output of the encoder; NaN for an unreadable image."""
    thumbnails: Float[np.ndarray, "n t"]
    """See `duplicates.thumbnails`."""
    centroids: Centroids
    summaries: tuple[Summary, ...]
    """Clusters that are not empty, largest first."""

    def __repr__(self) -> str:
        return f"Clusters({n_images(len(self.table))} in {len(self.summaries):,} clusters, the largest of {self.summaries[0].size:,})"


@dataclass(frozen=True)
class Assignment:
    """New images in the clusters of a run."""

    table: pa.Table
    """A row for each image, as in `Clusters.table` but for the map and copies; ranks are among these images. An outlier is unlike the
    images that were clustered, so that it may belong to no cluster."""

    def __repr__(self) -> str:
        clusters, n_outliers = self.table["cluster"].to_numpy(), pc.sum(self.table["is_outlier"]).as_py()
        return f"Assignment({n_images(len(clusters))} in {len(np.unique(clusters[clusters >= 0])):,} clusters, {n_outliers:,} outliers)"


@dataclass(frozen=True)
class FoundCentroids:
    """Centroids before images are assigned to them."""

    vectors: Float[Tensor, "l d"]
    layer: Layer
    tree: Tree
    clusters: Int64[np.ndarray, " l"]
    """Cluster of each centroid."""
    is_odd: Bool[np.ndarray, " r"] | None = None
    """See `Clusters.table`; None if density was not asked."""
    is_guess: bool = False
    """Whether no clusters stood out, so that their number follows from that of the images alone."""


def cluster(
    run: OpenRun,
    images: Any = None,
    *,
    k: NClusters = None,
    seed: int = 0,
    projection: Projection = "tsne",
    keep: bool = False,
) -> Clusters:
    """Put every image in a cluster.

    Args:
        run: provides the encoder and the prototypes.
        images: anything that `train` accepts; None for the run's own.
        k: a number, for the tree of clusters of the features cut to that many; "auto" for as many as stand out, see `find_clusters`; None for
            the method's own prototypes (the first head's, if there are several; for DeepCluster, the mean features of its top layer's
            classes), or for "auto" if the run was explored, or began from weights that were there: its features are more than its prototypes.
        seed: random seed of the sample that clusters are found on, and of the map.
        projection: method of the map: "tsne", "pca" or "umap" (extra `umap`).
        keep: save the clusters in the run's folder, for `assign` and the report, if the images are the run's own; see `write_clusters`.
    Raises:
        ConfigError: k below 2, or umap is not installed.
        DataError: fewer readable images than clusters.
    """
    check_projection(projection)
    if isinstance(k, int) and k < 2:
        raise ConfigError(f"k must be at least 2, got {k}; one cluster would hold every image")
    with distributed.alone():
        data = run.data(images)
        if keep:
            check_writable(run.path)
        _check_enough(len(data.images), k, data)
        embeddings = embeddings_of(run, data.images)
        found = _find(run, data, embeddings, k, seed)
        clusters = clusters_of(run, data, embeddings, found, seed=seed, projection=projection)
        if keep and is_kept(run, data):
            _keep_names(run.path)
            write_clusters(clusters, run.path)
        return clusters


def _find(run: OpenRun, data: Data, embeddings: Embeddings, k: NClusters, seed: int) -> FoundCentroids:
    """Return the method's own prototypes, or centroids of clusters of the features."""
    _, features = readable_features(embeddings)
    _check_enough(len(features), k, data)
    center = features.mean(dim=0)
    if k is None and run.config.model.init == "random" and run.config.method != "explore":
        return _prototypes(run, features, center)
    return find_in_features(unit_rows(features, center), k, seed)


def readable_features(embeddings: Embeddings) -> tuple[Int64[np.ndarray, " r"], Float[Tensor, "r f"]]:
    """Return the indices of the images that can be read, and their features, which are copied only if some cannot."""
    readable = np.flatnonzero(~np.isnan(embeddings.features[:, 0]))
    features = embeddings.features
    return readable, torch.from_numpy(features if len(readable) == len(features) else features[readable])


def unit_rows(features: Float[Tensor, "n f"], center: Float[Tensor, " f"]) -> Float[Tensor, "n f"]:
    """Return the centered rows, scaled to unit length; besides them, little memory is needed."""
    unit = torch.empty(features.shape)
    for rows, part in zip(unit.split(_ROWS), features.split(_ROWS), strict=True):
        rows.copy_(normalize(part - center))
    return unit


def clusters_of(
    run: OpenRun, data: Data, embeddings: Embeddings, found: FoundCentroids, *, seed: int, projection: Projection = "tsne"
) -> Clusters:
    """Return the clusters that centroids make of images, with copies, outliers and a map; see `cluster` for the arguments."""
    readable, features = readable_features(embeddings)
    center = features.mean(dim=0)
    unit = unit_rows(features, center)
    points = unit if found.layer == "features" else in_layer(run, features, "head")
    nearest, margins = nearest_centroids(points, found.vectors, torch.from_numpy(found.clusters))
    of_image = found.clusters[nearest.numpy()]
    number = by_size(of_image, int(found.clusters.max()) + 1)
    of_image, names = number[of_image], ("",) * len(number)
    is_trained_on_others = run.config.model.init != "random"
    outliers, is_outlier = fit_outlier_model(features, None if is_trained_on_others else torch.from_numpy(of_image), seed=seed)
    looks = torch.from_numpy(embeddings.thumbnails[readable])
    copies = find_copies(data.images, readable, unit, looks, threads=n_threads(run.config))
    places = project(features, projection, seed=seed)
    centroids = Centroids(
        vectors=found.vectors,
        clusters=torch.from_numpy(number[found.clusters]),
        names=names,
        means=mean_directions(unit, of_image, len(names)),
        center=center,
        tree=found.tree,
        layer=found.layer,
        outliers=outliers,
        step=run.step,
        digest=data.images.digest(),
    )
    del unit, points
    clusters = described(
        data,
        embeddings,
        readable,
        centroids,
        of_image,
        nearest.numpy(),
        margins.numpy(),
        is_outlier=is_outlier.numpy(),
        is_odd=found.is_odd,
        x=places[:, 0],
        y=places[:, 1],
        duplicate_of=np.where(copies.first >= 0, readable[copies.first], -1),
        copy=np.array(copies.kinds, dtype=object),
    )
    return replace(clusters, table=clusters.table.replace_schema_metadata({GUESSED: "yes"})) if found.is_guess else clusters


def described(
    data: Data,
    embeddings: Embeddings,
    readable: Int64[np.ndarray, " r"],
    centroids: Centroids,
    of_image: Int64[np.ndarray, " r"],
    nearest: Int64[np.ndarray, " r"],
    margins: Float[np.ndarray, " r"],
    **columns: Any,
) -> Clusters:
    """Return clusters with their table and summaries; see `cluster_table` for the arguments."""
    distances = _distances(readable_features(embeddings)[1], centroids, of_image)
    table = cluster_table(data, readable, of_image, centroids.names, nearest, distances, margins, **columns)
    return Clusters(table, embeddings.features, embeddings.thumbnails, centroids, _summaries(of_image, distances, centroids))


def assign(run: OpenRun, images: Any) -> Assignment:
    """Put new images in the clusters that `cluster` has saved in the run's folder.

    Raises:
        CheckpointError: there are no clusters yet, or the run has been trained since.
    """
    centroids = current_centroids(run)
    with distributed.alone():
        data = run.data(images)
        readable, features = readable_features(embeddings_of(run, data.images))
        if len(readable) == 0:
            raise DataError(_none_readable(data))
        of_image, nearest, margins = nearest_clusters(run, features, centroids)
        is_outlier = centroids.outliers.are_outliers(features)
        distances = _distances(features, centroids, of_image)
        return Assignment(cluster_table(data, readable, of_image, centroids.names, nearest, distances, margins, is_outlier.numpy()))


def current_centroids(run: OpenRun) -> Centroids:
    """Return the centroids in the run's folder.

    Raises:
        CheckpointError: there are none, or the run has been trained since.
    """
    centroids = read_centroids(run.path)
    if centroids.step != run.step:
        raise CheckpointError(
            f"the clusters of {str(run.path)!r} are of step {centroids.step:,}, but its network is of step {run.step:,}; run {command('cluster', run.path)} again"
        )
    return centroids


def nearest_clusters(
    run: OpenRun, features: Float[Tensor, "n f"], centroids: Centroids
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the cluster of each row, its nearest centroid, and how much farther the nearest one of another cluster is."""
    rows = compared(run, features, centroids.layer, centroids.center)
    nearest, margins = nearest_centroids(rows, centroids.vectors, centroids.clusters)
    return centroids.clusters[nearest].numpy(), nearest.numpy(), margins.numpy()


def is_kept(run: OpenRun, data: Data) -> bool:
    """Return whether clusters of these images are saved in the run's folder: of its own images, or of any if it has none."""
    return not has_manifest(run.path) or run.is_own(data.images)


def write_clusters(found: Clusters, folder: Path) -> None:
    """Write clusters.parquet and, for `assign`, clusters.safetensors to the run's folder."""
    write_centroids(found.centroids, folder)
    write_table(found.table, folder / TABLE)


def _keep_names(folder: Path) -> None:
    """Write the names of the saved clusters to a file that `apply` reads, before other clusters replace them."""
    with contextlib.suppress(OSError, pa.ArrowInvalid):  # a damaged table is replaced
        table = read_table(folder / TABLE)
        if "name" in table.column_names and table["name"].null_count < len(table):
            file = folder / "names.csv"
            write_names(table, file)
            logger.info(f"the names given before are in {file}; {command('apply', folder, file)} brings those clusters back")


def find_in_features(unit: Float[Tensor, "n f"], k: NClusters, seed: int) -> FoundCentroids:
    """Return the leaves of a tree of clusters, cut to k clusters, or to as many as stand out."""
    logger.info(f"clustering {n_images(len(unit))}")
    found = find_clusters(unit, k=k if isinstance(k, int) else None, seed=seed)
    if isinstance(k, int):
        n_clusters = k
    elif found.natural > 1:
        n_clusters = found.natural
    else:
        n_clusters = min(found.tree.n_leaves, max(2, round((len(unit) / 2) ** 0.5)))
        logger.warning(f"no clusters stand out among these images; made {n_clusters}, see --k")
    stand_out = found.natural > 1
    is_guess = not stand_out and not isinstance(k, int)
    return FoundCentroids(found.means, "features", found.tree, found.tree.cut(n_clusters), found.left_over if stand_out else None, is_guess)


@torch.no_grad()
def _prototypes(run: OpenRun, features: Float[Tensor, "n f"], center: Float[Tensor, " f"]) -> FoundCentroids:
    """Return the method's own prototypes, each its own cluster."""
    prototypes, unit = run.model.prototypes, unit_rows(features, center)
    layer: Layer = "head"
    if isinstance(prototypes, Prototypes):
        vectors = prototypes.heads()[0].detach().cpu().clone()
    else:
        classes = torch.cat([prototypes(part.to(run.device))[0].argmax(dim=1).cpu() for part in features.split(_ROWS)])
        sums = torch.zeros(int(classes.max()) + 1, features.shape[1]).index_add_(0, classes, unit)
        vectors, layer = normalize(sums[torch.bincount(classes) > 0]), "features"
    each = np.arange(len(vectors))
    points = unit if layer == "features" else in_layer(run, features, "head")
    nearest, _ = nearest_centroids(points, vectors, torch.from_numpy(each))
    tree = ward_of_means(*means_of(unit.numpy(), nearest.numpy(), len(vectors)))
    return FoundCentroids(vectors, layer, tree, each)


def compared(run: OpenRun, features: Float[Tensor, "n f"], layer: Layer, center: Float[Tensor, " f"]) -> Float[Tensor, "n d"]:
    """Return what is compared with centroids, of unit norm: embeddings, or centered features."""
    return in_layer(run, features, "head") if layer == "head" else unit_rows(features, center)


def mean_directions(unit: Float[Tensor, "n f"], clusters: Int64[np.ndarray, " n"], n_clusters: int) -> Float[Tensor, "k f"]:
    """Return the mean direction of the rows of each cluster, zeros for an empty one."""
    return normalize(torch.zeros(n_clusters, unit.shape[1]).index_add_(0, torch.from_numpy(clusters), unit))


def _summaries(clusters: Int64[np.ndarray, " n"], distances: Float[np.ndarray, " n"], centroids: Centroids) -> tuple[Summary, ...]:
    """Return the figures of the clusters that are not empty."""
    sizes = np.bincount(clusters, minlength=centroids.n_clusters)
    cohesion = 1 - np.bincount(clusters, weights=distances, minlength=centroids.n_clusters) / sizes.clip(min=1)
    used = torch.from_numpy(np.flatnonzero(sizes))
    neighbors = used[nearest_neighbors(centroids.means[used], 3)[0]]
    return tuple(
        Summary(cluster, centroids.names[cluster], int(sizes[cluster]), float(cohesion[cluster]), tuple(nearest))
        for cluster, nearest in zip(used.tolist(), neighbors.tolist(), strict=True)
    )


def _distances(features: Float[Tensor, "n f"], centroids: Centroids, clusters: Int64[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return 1 - cosine of each centered row with the mean direction of its cluster."""
    parts = zip(features.split(_ROWS), torch.from_numpy(clusters).split(_ROWS), strict=True)
    cosines = [(normalize(rows - centroids.center) * centroids.means[of_rows]).sum(dim=1) for rows, of_rows in parts]
    return (1 - torch.cat(cosines)).clamp(min=0).numpy()


def _check_enough(n: int, k: NClusters, data: Data) -> None:
    if n == 0:
        raise DataError(_none_readable(data))
    if n < 2:
        raise DataError("one image cannot be clustered; give more images")
    if isinstance(k, int) and n < k:
        raise DataError(f"{n_images(n)} are fewer than {k:,} clusters; lower k, or give more images")


def _none_readable(data: Data) -> str:
    return f"none of {len(data.images):,} images can be read (first: {data.images.path(0)!r})"
