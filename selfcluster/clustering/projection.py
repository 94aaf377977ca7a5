"""A 2-D map of features."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.errors import ConfigError

Projection = Literal["pca", "umap"]

_FEWEST = 5
"""Points that UMAP needs; fewer have no neighborhoods to keep, and PCA is used."""
_MOST = 50_000
"""Rows that the directions are of; more are sampled."""
_SAMPLE = 0x3A9
"""Key of the random draws."""


def project(features: Float[Tensor, "n f"], projection: Projection, *, seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Return a position in the plane for each row, near those of similar rows as far as a plane allows.

    Args:
        features: compared by direction.
        projection: "pca": the two directions of most variance, of at most 50,000 rows, reproducible; "umap": keeps neighborhoods, slower, extra `umap`.
        seed: random seed of UMAP, and of the sample.
    Raises:
        ConfigError: another projection, or umap is not installed.
    """
    check_projection(projection)
    if len(features) < 2:
        return np.zeros((len(features), 2), dtype=np.float32)
    n, n_axes = len(features), min(2, *features.shape)
    if projection == "umap" and n >= _FEWEST:
        import umap

        points = normalize(features).numpy()
        # With a seed umap uses one job; n_jobs=1 avoids its warning.
        return umap.UMAP(metric="cosine", n_neighbors=min(15, n - 1), random_state=seed, n_jobs=1).fit_transform(points).astype(np.float32)
    sample = torch.from_numpy(randomness.permutation(n, seed, _SAMPLE)[:_MOST]).sort().values
    with np.errstate(invalid="ignore"):  # scikit-learn divides by the variance of constant features
        pca = PCA(n_axes, svd_solver="covariance_eigh").fit(normalize(features[sample]).double().numpy())
    places = np.concatenate([pca.transform(normalize(rows).double().numpy()) for rows in features.split(_MOST)])
    return np.pad(places, ((0, 0), (0, 2 - n_axes))).astype(np.float32)


def check_projection(projection: str) -> None:
    """Raise the ConfigError that `project` would raise."""
    if projection not in ("pca", "umap"):
        raise ConfigError(f"map {projection!r} must be pca or umap")
    if projection == "umap" and find_spec("umap") is None:
        raise ConfigError("map umap needs the extra: pip install 'selfcluster[umap]'")
