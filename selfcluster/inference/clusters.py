"""Where are my clusters? Every image with its cluster, how typical it is of it, and its place on a map.

Images are compared with centroids by cosine: with the method's own prototypes, in the space of embeddings; or, for a number of
clusters of the user's choice, with those of k-means, in the space of features. The centroids stay in the run's folder, so that new
images can be assigned to the clusters that are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import distributed
from selfcluster.clustering.duplicates import duplicates_of
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.n_clusters import Candidate, choose_n_clusters
from selfcluster.clustering.neighbors import nearest_neighbors, nearest_two
from selfcluster.clustering.outliers import OutlierModel, fit_outlier_model
from selfcluster.clustering.projection import Projection, check_projection, project
from selfcluster.data.readers.labels import names_of
from selfcluster.data.sources import Data
from selfcluster.distributed import logger
from selfcluster.errors import CheckpointError, ConfigError, DataError
from selfcluster.formatting import table as tabulated
from selfcluster.inference.embeddings import embeddings_of, in_layer
from selfcluster.models.features import Layer
from selfcluster.models.model import Prototypes
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.folder import check_writable
from selfcluster.runs.run import OpenRun


@dataclass(frozen=True)
class Centroids:
    """What images are assigned by."""

    vectors: Float[Tensor, "k d"]
    """Of unit norm."""
    layer: Layer
    """What is compared with them."""
    outliers: OutlierModel
    """What tells images that are far from all clusters."""
    step: int
    """Of the checkpoint whose network they belong to."""
    digest: str
    """Of the images that they were made of."""


@dataclass(frozen=True)
class Summary:
    """One cluster."""

    cluster: int
    size: int
    cohesion: float
    """Mean cosine of its images with its centroid."""
    nearest: tuple[int, ...]
    """The clusters whose centroids are nearest, nearest first; only such as hold images."""


@dataclass(frozen=True)
class Clusters:
    """All images in their clusters."""

    table: pa.Table
    """A row for each image, in the order of the data: path, index, cluster (-1 where it cannot be read), distance (1 - cosine with the centroid), margin
    (how much farther the next centroid is), rank_in_cluster (0 for the most typical), x and y (of the map), far (from all clusters, as
    1 % are; see `outliers.fit_outlier_model`), duplicate_of (index of an earlier image that looks the same, or null), and label where there is one."""
    features: Float[NDArray[np.float32], "n f"]
    """Of the encoder; NaN where an image cannot be read."""
    centroids: Centroids
    summaries: tuple[Summary, ...]
    """Of the clusters that hold images, largest first."""
    tried: tuple[Candidate, ...] = ()
    """Numbers of clusters that were tried, where the number was asked for."""

    def __repr__(self) -> str:
        return f"Clusters({len(self.table):,} images in {len(self.summaries):,} clusters, the largest of {self.summaries[0].size:,})"


@dataclass(frozen=True)
class Assignment:
    """New images in the clusters of a run."""

    table: pa.Table
    """A row for each image: path, index, cluster (-1 where it cannot be read), distance, margin, rank_in_cluster (among these images), far
    (from every cluster, so that it may belong to none), and label where there is one."""

    def __repr__(self) -> str:
        clusters, far = self.table["cluster"].to_numpy(), pc.sum(self.table["far"]).as_py()
        return f"Assignment({len(clusters):,} images in {len(np.unique(clusters[clusters >= 0])):,} clusters, {far:,} far from all)"


def cluster(
    run: OpenRun,
    images: Any = None,
    *,
    k: int | Literal["auto"] | None = None,
    seed: int = 0,
    projection: Projection = "pca",
    keep: bool = False,
) -> Clusters:
    """Every image is in a cluster.

    Args:
        run: whose encoder, and whose prototypes.
        images: anything that `train` takes; None for the run's own.
        k: None for the method's own prototypes (of several heads, the first; for DeepCluster, the mean features of what its top layer tells
            apart); a number for that many clusters by spherical k-means on features, the best of 10 starts; "auto" for a number by
            silhouette, see `choose_n_clusters`.
        seed: of the starts.
        projection: of the map: "pca" or "umap" (extra `umap`).
        keep: whether the run's folder holds them afterwards, for `assign` and the report; see `write_clusters`.
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
        features, looks = found.features, found.thumbnails
        readable = np.flatnonzero(~np.isnan(features[:, 0]))
        _check_enough(len(readable), k, data)
        of_readable = torch.from_numpy(features[readable])
        tried: tuple[Candidate, ...] = ()
        if k == "auto":
            logger.info(f"trying numbers of clusters on {len(readable):,} images")
            k, tried = choose_n_clusters(of_readable, seed=seed, device=run.device)
        if k is None:
            layer, vectors = _prototypes(run, of_readable)
        else:
            means = kmeans(
                of_readable, k, spherical=True, init="k-means++", n_init=10, iterations=100, tolerance=1e-4, seed=seed, device=run.device
            )
            layer, vectors = "features", normalize(means.centroids).cpu()
        assignments, distances, margins = nearest_two(in_layer(run, of_readable, layer), vectors)
        known, how_far = fit_outlier_model(of_readable, assignments, seed=seed)
        centroids = Centroids(vectors, layer, known, run.step, data.images.digest())
        table = _table(data, readable, assignments, distances, margins, how_far > known.limit)
        table = _with_map(table, readable, project(of_readable, projection, seed=seed))
        same = duplicates_of(of_readable, looks[readable], assignments)
        table = _with_duplicates(table, readable, same)
        clusters = Clusters(table, features, centroids, _summaries(centroids, assignments, distances), tried)
        if keep:
            write_clusters(clusters, run.path)
        return clusters


def assign(run: OpenRun, images: Any) -> Assignment:
    """New images in the clusters that `cluster` has found and left in the run's folder.

    Raises:
        CheckpointError: no clusters are there yet, or they are of weights that have been trained on since.
    """
    centroids = read_centroids(run.path)
    if centroids.step != run.step:
        raise CheckpointError(
            f"the clusters of {str(run.path)!r} are of step {centroids.step:,}, and its network is of step {run.step:,}; run selfcluster cluster {run.path} again"
        )
    with distributed.alone():
        data = run.data(images)
        rows = torch.from_numpy(embeddings_of(run, data.images).features)
        readable = np.flatnonzero(~rows[:, 0].isnan().numpy())
        if len(readable) == 0:
            raise DataError(f"none of {len(rows):,} images can be read (first: {data.images.path(0)!r})")
        features = rows[torch.from_numpy(readable)]
        assignments, distances, margins = nearest_two(in_layer(run, features, centroids.layer), centroids.vectors)
        far = centroids.outliers.distances(features) > centroids.outliers.limit
        return Assignment(_table(data, readable, assignments, distances, margins, far))


def write_clusters(found: Clusters, folder: Path) -> None:
    """The run's folder holds them: clusters.parquet and, for `assign`, clusters.safetensors."""
    c = found.centroids
    named = {
        "vectors": c.vectors,
        "means": c.outliers.means,
        "metric": c.outliers.metric,
        "limit": torch.tensor(c.outliers.limit),
    }
    metadata = {"layer": c.layer, "step": str(c.step), "digest": c.digest}
    write_atomically(folder / "clusters.safetensors", save({name: t.contiguous() for name, t in named.items()}, metadata=metadata))
    write_table(found.table, folder / "clusters.parquet")


def read_centroids(folder: Path) -> Centroids:
    """Those that `write_clusters` has left there.

    Raises:
        CheckpointError: there are none, or they are damaged.
    """
    file = folder / "clusters.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{str(folder)!r} holds no clusters to assign to; run selfcluster cluster {folder} first")
    try:
        with safe_open(file, "pt") as opened:
            of: Any = opened.metadata()
            vectors, means, metric, limit = (opened.get_tensor(name) for name in ("vectors", "means", "metric", "limit"))
            return Centroids(vectors, of["layer"], OutlierModel(means, metric, float(limit)), int(of["step"]), of["digest"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}; run selfcluster cluster {folder} again") from None


def write_table(table: pa.Table, file: Path) -> None:
    """The table is in the file, parquet or CSV by its ending, whole or not at all."""
    sink = pa.BufferOutputStream()
    if file.suffix == ".csv":
        pa.csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink, compression="zstd")
    write_atomically(file, sink.getvalue().to_pybytes())


def describe(found: Clusters, n_shown: int = 12) -> str:
    """What a user wants to know at once: sizes, cohesion, nearest clusters, copies and strays."""
    t = found.table
    by = "the method's own prototypes" if found.centroids.layer == "head" else "features"
    empty = len(found.centroids.vectors) - len(found.summaries)
    lines = [f"{len(t):,} images in {len(found.summaries):,} clusters, by {by}" + (f" ({empty} more hold none)" if empty else "")]
    if found.tried:
        lines.append("silhouette: " + ", ".join(f"{one.k}: {one.silhouette:.3f}" for one in found.tried))
    shown = [["cluster", "images", "cohesion", "nearest", "most typical"]]
    typical = _most_typical(t)
    for s in found.summaries[:n_shown]:
        shown.append([str(s.cluster), f"{s.size:,}", f"{s.cohesion:.3f}", " ".join(map(str, s.nearest)), typical[s.cluster]])
    lines.append(tabulated(shown, right=(0, 1, 2)))
    if len(found.summaries) > n_shown:
        lines.append(f"... and {len(found.summaries) - n_shown} smaller ones")
    copies, strays = len(t) - t["duplicate_of"].null_count, pc.sum(t["far"]).as_py()
    lines.append(f"copies of other images: {copies:,} (duplicate_of); far from all clusters: {strays:,} (far)")
    if unreadable := pc.sum(pc.equal(t["cluster"], -1)).as_py():
        lines.append(f"{unreadable:,} images cannot be read (cluster -1)")
    return "\n".join(lines)


def describe_assigned(table: pa.Table, n_shown: int = 12) -> str:
    """How many went where, and how many belong nowhere."""
    clusters = table["cluster"].to_numpy()
    sizes = np.bincount(clusters[clusters >= 0])
    largest = [c for c in np.argsort(-sizes, kind="stable").tolist() if sizes[c]][:n_shown]
    typical = _most_typical(table)
    shown = [["cluster", "images", "most typical"], *([str(c), f"{sizes[c]:,}", typical[c]] for c in largest)]
    strays, unreadable = pc.sum(table["far"]).as_py(), int((clusters < 0).sum())
    lines = [f"{len(table):,} images in {int((sizes > 0).sum()):,} clusters", tabulated(shown, right=(0, 1))]
    lines.append(f"far from all clusters: {strays:,} ({strays / max(1, len(table)):.1%}; 1 % of those that were clustered)")
    return "\n".join(lines + ([f"{unreadable:,} images cannot be read (cluster -1)"] if unreadable else []))


def _most_typical(table: pa.Table) -> dict[int, str]:
    first = table.filter(pc.equal(table["rank_in_cluster"], 0))
    return dict(zip(first["cluster"].to_pylist(), first["path"].to_pylist(), strict=True))


# ------------------------------------------------------------------------------------------------------------------- parts


@torch.no_grad()
def _prototypes(run: OpenRun, features: Float[Tensor, "n f"]) -> tuple[Layer, Float[Tensor, "k d"]]:
    """The method's own centroids, and what is compared with them."""
    prototypes = run.model.prototypes
    if isinstance(prototypes, Prototypes):
        return "head", prototypes.heads()[0].detach().cpu().clone()
    top = torch.cat([prototypes(part.to(run.device))[0].argmax(dim=1).cpu() for part in features.split(8192)])
    sums = torch.zeros(int(top.max()) + 1, features.shape[1]).index_add_(0, top, normalize(features))
    return "features", normalize(sums[torch.bincount(top) > 0])


def _check_enough(n: int, k: int | Literal["auto"] | None, data: Data) -> None:
    if n == 0:
        raise DataError(f"none of {len(data.images):,} images can be read (first: {data.images.path(0)!r})")
    if isinstance(k, int) and n < k:
        raise DataError(f"{n:,} images are fewer than {k:,} clusters; lower k, or give more images")
    if n < 2:
        raise DataError("one image makes no clusters; give more images")


def _order(assignments: Int64[Tensor, " n"], distances: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Rows cluster by cluster, nearest first."""
    return torch.from_numpy(np.lexsort((distances.numpy(), assignments.numpy())))


def _ranks(assignments: Int64[Tensor, " n"], distances: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """How many of its cluster are nearer to the centroid."""
    order = _order(assignments, distances)
    sizes = torch.bincount(assignments)
    begins = sizes.cumsum(dim=0) - sizes
    ranks = torch.empty_like(assignments)
    ranks[order] = torch.arange(len(order)) - begins[assignments[order]]
    return ranks


def _table(data: Data, readable: NDArray[np.int64], assignments: Tensor, distances: Tensor, margins: Tensor, far: Tensor) -> pa.Table:
    """A row for each image, whether it can be read or not."""
    columns: dict[str, tuple[Tensor, Any]] = {  # and what stands where an image cannot be read
        "cluster": (assignments.int(), -1),
        "distance": (distances, np.nan),
        "margin": (margins, np.nan),
        "rank_in_cluster": (_ranks(assignments, distances).int(), -1),
        "far": (far, False),
    }
    found = {"path": data.images.paths(), "index": np.arange(len(data.images))}
    for name, (values, otherwise) in columns.items():
        found[name] = _spread(values.numpy(), readable, len(data.images), otherwise)
    labels = names_of(data.images.labels)
    return pa.table(found if labels is None else {**found, "label": labels})


def _spread(values: NDArray[Any], readable: NDArray[np.int64], n: int, otherwise: Any) -> NDArray[Any]:
    whole = np.full(n, otherwise, dtype=values.dtype)
    whole[readable] = values
    return whole


def _with_map(table: pa.Table, readable: NDArray[np.int64], places: NDArray[np.float32]) -> pa.Table:
    for axis, name in enumerate("xy"):
        table = table.add_column(6 + axis, name, pa.array(_spread(places[:, axis], readable, len(table), np.nan)))
    return table


def _with_duplicates(table: pa.Table, readable: NDArray[np.int64], same: NDArray[np.int64]) -> pa.Table:
    first = np.where(same >= 0, readable[same], -1)
    whole = _spread(first, readable, len(table), -1)
    return table.add_column(9, "duplicate_of", pa.array(whole, mask=whole < 0))


def _summaries(centroids: Centroids, assignments: Int64[Tensor, " n"], distances: Float[Tensor, " n"]) -> tuple[Summary, ...]:
    k = len(centroids.vectors)
    sizes = torch.bincount(assignments, minlength=k)
    cohesion = 1 - torch.zeros(k).index_add_(0, assignments, distances) / sizes.clamp(min=1)
    used = (sizes > 0).nonzero()[:, 0]
    nearest = nearest_neighbors(centroids.vectors[used], 3)[0].tolist()
    found = (
        Summary(int(c), int(sizes[c]), float(cohesion[c]), tuple(int(used[other]) for other in others))
        for c, others in zip(used.tolist(), nearest, strict=True)
    )
    return tuple(sorted(found, key=lambda summary: (-summary.size, summary.cluster)))
