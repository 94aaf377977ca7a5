"""Features on a plane, so that they can be looked at."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.errors import ConfigError

Projection = Literal["pca", "umap"]


def project(features: Float[Tensor, "n f"], projection: Projection, *, seed: int = 0) -> Float[NDArray[np.float32], "n 2"]:
    """A place on a plane for each row: neighbors lie together as far as a plane allows.

    Args:
        features: compared by direction.
        projection: "pca": the two directions of most variance, exact and the same every time; "umap": neighborhoods kept, slower, extra `umap`.
        seed: of umap.
    Raises:
        ConfigError: another projection, or umap is not installed.
    """
    check_projection(projection)
    points = normalize(features)
    if projection == "pca" or len(points) < _FEW:
        return _pca(points)
    import umap

    n_neighbors = min(15, len(points) - 1)
    # A seed and more than one job exclude each other, and umap warns of it.
    return umap.UMAP(metric="cosine", n_neighbors=n_neighbors, random_state=seed, n_jobs=1).fit_transform(points.numpy()).astype(np.float32)


_FEW = 5
"""Points below which there are no neighborhoods to keep, and the two directions do."""


def check_projection(projection: str) -> None:
    """Raises ConfigError where `project` would."""
    if projection not in ("pca", "umap"):
        raise ConfigError(f"map {projection!r} must be pca or umap")
    if projection == "umap" and find_spec("umap") is None:
        raise ConfigError("map umap needs the extra: pip install 'selfcluster[umap]'")


def _pca(points: Float[Tensor, "n f"]) -> NDArray[np.float32]:
    """Exact, by the covariance; the sign of an axis is that of its largest weight."""
    wide = points.double()
    centered = wide - wide.mean(dim=0)
    axes = torch.linalg.eigh(centered.T @ centered).eigenvectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    places = (centered @ axes).float().numpy()
    return places if places.shape[1] == 2 else np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
