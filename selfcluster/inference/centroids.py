"""The centroids to which images are assigned, the clusters that they make up, and their file in the run's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from selfcluster.clustering.outliers import OutlierModel
from selfcluster.clustering.tree import Tree
from selfcluster.errors import CheckpointError
from selfcluster.formatting import command
from selfcluster.runs.atomic import write_atomically
from selfcluster.settings.commands import Layer

_FILE = "clusters.safetensors"


@dataclass(frozen=True)
class Centroids:
    """The centroids to which images are assigned; one or several make up a cluster."""

    vectors: Float[Tensor, "l d"]
    """Rows of unit norm."""
    clusters: Int64[Tensor, " l"]
    """Number of the cluster of each centroid."""
    names: tuple[str, ...]
    """Name of each cluster; "" if it has none."""
    means: Float[Tensor, "k f"]
    """Mean direction of each cluster in the centered features; zeros for a cluster without images."""
    center: Float[Tensor, " f"]
    """Mean of the features that the centroids were computed from."""
    tree: Tree
    """How the centroids merge into fewer clusters."""
    layer: Layer
    """What is compared with the centroids: centered features, or embeddings."""
    outliers: OutlierModel
    """Decides which images are outliers."""
    step: int
    """Step of the checkpoint whose network they belong to."""
    digest: str
    """Digest of the images that they were computed from."""

    @property
    def n_clusters(self) -> int:
        """Number of clusters, with those that have no images."""
        return len(self.names)


def write_centroids(centroids: Centroids, folder: Path) -> None:
    """Write clusters.safetensors to the run's folder, which `assign` reads."""
    tensors = {name: getattr(centroids, name) for name in ("vectors", "clusters", "means", "center")}
    tensors |= {f"outliers.{name}": tensor for name, tensor in centroids.outliers.tensors().items()}
    tensors["merges"] = torch.from_numpy(centroids.tree.merges)
    metadata = {"layer": centroids.layer, "step": str(centroids.step), "digest": centroids.digest, "names": json.dumps(centroids.names)}
    write_atomically(folder / _FILE, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata))


def read_centroids(folder: Path) -> Centroids:
    """Read the centroids of the last `cluster` from the run's folder.

    Raises:
        CheckpointError: there are none, or the file is damaged or of an older version.
    """
    file = folder / _FILE
    if not file.is_file():
        raise CheckpointError(f"{str(folder)!r} contains no clusters to assign to; run {command('cluster', folder)} first")
    try:
        with safe_open(file, "pt") as opened:
            metadata, names = opened.metadata(), set(opened.keys())
            vectors, clusters, means, center, merges = (
                opened.get_tensor(name) for name in ("vectors", "clusters", "means", "center", "merges")
            )
            outliers = OutlierModel.of(
                {name.removeprefix("outliers."): opened.get_tensor(name) for name in names if name.startswith("outliers.")}
            )
        found = tuple(map(str, json.loads(metadata["names"])))
        if (
            len(clusters) != len(vectors)
            or len(merges) != len(vectors) - 1
            or not 0 <= int(clusters.min()) <= int(clusters.max()) < len(found)
        ):
            raise ValueError("its tables do not fit each other")
        return Centroids(
            vectors,
            clusters,
            found,
            means,
            center,
            Tree(merges.numpy()),
            metadata["layer"],
            outliers,
            int(metadata["step"]),
            metadata["digest"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = "is of an older version" if isinstance(error, (KeyError, TypeError)) else f"is damaged: {error}"
        raise CheckpointError(f"{str(file)!r} {reason}; run {command('cluster', folder)} again") from None


def by_size(clusters: Int64[np.ndarray, " n"], n_clusters: int) -> Int64[np.ndarray, " k"]:
    """Return the new number of each cluster, 0 for the largest; equal ones stay in order, and empty ones come last."""
    order = np.argsort(-np.bincount(clusters[clusters >= 0], minlength=n_clusters), kind="stable")
    return np.argsort(order)
