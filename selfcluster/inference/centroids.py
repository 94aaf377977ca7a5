"""The centroids to which images are assigned, and their file in the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from selfcluster.clustering.outliers import OutlierModel
from selfcluster.errors import CheckpointError
from selfcluster.runs.atomic import write_atomically
from selfcluster.settings.commands import Layer

_FILE = "clusters.safetensors"


@dataclass(frozen=True)
class Centroids:
    """The centroids to which images are assigned."""

    vectors: Float[Tensor, "k d"]
    """Rows of unit norm."""
    layer: Layer
    """The features or embeddings that are compared with them."""
    outliers: OutlierModel
    """Decides which images are outliers."""
    step: int
    """Step of the checkpoint whose network they belong to."""
    digest: str
    """Digest of the images that they were computed from."""


def write_centroids(centroids: Centroids, folder: Path) -> None:
    """Write clusters.safetensors to the run's folder, which `assign` reads."""
    tensors = {
        "vectors": centroids.vectors,
        "means": centroids.outliers.means,
        "metric": centroids.outliers.metric,
        "limit": torch.tensor(centroids.outliers.limit),
    }
    metadata = {"layer": centroids.layer, "step": str(centroids.step), "digest": centroids.digest}
    write_atomically(folder / _FILE, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata))


def read_centroids(folder: Path) -> Centroids:
    """Read the centroids of the last `cluster` from the run's folder.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    file = folder / _FILE
    if not file.is_file():
        raise CheckpointError(f"{str(folder)!r} contains no clusters to assign to; run selfcluster cluster {folder} first")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
            vectors, means, metric, limit = (opened.get_tensor(name) for name in ("vectors", "means", "metric", "limit"))
            outliers = OutlierModel(means, metric, float(limit))
            return Centroids(vectors, metadata["layer"], outliers, int(metadata["step"]), metadata["digest"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}; run selfcluster cluster {folder} again") from None
