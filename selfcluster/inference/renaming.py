"""Names, merges and splits of a run's clusters, as they come back from the page or a spreadsheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from selfcluster import distributed
from selfcluster.clustering.neighbors import margins_of
from selfcluster.clustering.tree import means_of, ward_of_means
from selfcluster.data.dataset import Data
from selfcluster.errors import CheckpointError
from selfcluster.formatting import command
from selfcluster.inference.centroids import Centroids
from selfcluster.inference.cluster_table import saved_table
from selfcluster.inference.clusters import Clusters, compared, current_centroids, described, mean_directions, unit_rows, write_clusters
from selfcluster.inference.embeddings import embeddings_of
from selfcluster.inference.names import Partition, read_names
from selfcluster.runs.folder import check_writable
from selfcluster.runs.run import OpenRun


def apply(run: OpenRun, file: str | Path, images: Any = None) -> Clusters:
    """Name, merge and split the clusters in the run's folder as a CSV file says; see `names.read_names`.

    Copies, outliers and the map stay. A centroid whose images now are in several clusters is replaced by the mean directions of each part.

    Args:
        run: with clusters of its own images.
        file: CSV with the columns cluster and name, or path, cluster and name.
        images: the run's own, for a run of an array, which is not saved; None for where they were.
    Raises:
        CheckpointError: there are no clusters yet, or they are of other images or of an earlier step.
        DataError: the file cannot be applied; nothing is changed.
    """
    check_writable(run.path)
    with distributed.alone():
        data = run.data(images)
        centroids, table = _own_clusters(run, data)
        named = read_names(Path(file), table, centroids.names)
        found = _regrouped(run, data, centroids, table, named)
        write_clusters(found, run.path)
        return found


def _own_clusters(run: OpenRun, data: Data) -> tuple[Centroids, pa.Table]:
    centroids = current_centroids(run)
    if centroids.digest != data.images.digest():
        raise CheckpointError(f"the clusters of {str(run.path)!r} are of other images; run {command('cluster', run.path)} again")
    return centroids, saved_table(run.path)


def _regrouped(run: OpenRun, data: Data, centroids: Centroids, table: pa.Table, named: Partition) -> Clusters:
    """Return the clusters with other groups of images."""
    embeddings = embeddings_of(run, data.images)
    readable = np.flatnonzero(named.groups >= 0)
    rows, groups = torch.from_numpy(embeddings.features[readable]), named.groups[readable]
    nearest = table["centroid"].to_numpy()[readable]
    unit = unit_rows(rows, centroids.center)
    points = unit if centroids.layer == "features" else compared(run, rows, centroids.layer, centroids.center)
    parts, of_part = np.unique(np.stack([nearest, groups], axis=1), axis=0, return_inverse=True)
    of_part = of_part.reshape(-1)
    vectors, tree = _vectors(points, centroids.vectors, parts[:, 0], of_part), centroids.tree
    if len(parts) != tree.n_leaves:
        tree = ward_of_means(*means_of(unit.numpy(), of_part, len(parts)))
    clusters = torch.from_numpy(parts[:, 1])
    means = mean_directions(unit, groups, len(named.names))
    kept = table.take(pa.array(readable))
    is_odd = kept["is_odd"] if "is_odd" in kept.column_names else None
    return described(
        data,
        embeddings,
        readable,
        replace(centroids, vectors=vectors, clusters=clusters, names=named.names, means=means, tree=tree),
        groups,
        of_part,
        margins_of(points, torch.from_numpy(groups), vectors, clusters).numpy(),
        is_outlier=kept["is_outlier"].to_numpy(),
        is_odd=is_odd.to_numpy() if is_odd is not None and not is_odd.null_count else None,
        x=kept["x"].to_numpy(),
        y=kept["y"].to_numpy(),
        duplicate_of=kept["duplicate_of"].fill_null(-1).to_numpy(),
        copy=np.array(kept["copy"].to_pylist(), dtype=object),
    )


def _vectors(
    points: Float[Tensor, "n d"], vectors: Float[Tensor, "l d"], centroid: Int64[np.ndarray, " p"], of_part: Int64[np.ndarray, " n"]
) -> Float[Tensor, "p d"]:
    """Return the centroid of each part: the former one if it is whole, else the mean direction of its images."""
    is_whole = np.bincount(centroid, minlength=len(vectors))[centroid] == 1
    split = mean_directions(points, of_part, len(centroid))
    return torch.where(torch.from_numpy(is_whole)[:, None], vectors[torch.from_numpy(centroid)], split)
