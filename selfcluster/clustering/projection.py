"""A 2-D map of features."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # of scikit-learn
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.errors import ConfigError

Projection = Literal["tsne", "pca", "umap"]

_FEWEST = 12
"""Rows that have neighborhoods to keep; the map of fewer is their principal components."""
_MOST = 50_000
"""Rows that the directions of the most variance are of; more are sampled."""
_LANDMARKS, _COMPONENTS, _PERPLEXITY, _ITERATIONS = 1500, 50, 30.0, 500
"""Rows that t-SNE places, by this many principal components; the published perplexity; and its iterations, half of the default, which
are enough for so few."""
_N_NEAREST, _SHARPNESS = 5, 8
"""Landmarks between which another row is placed, and the power of its cosines that weigh them."""
_ROWS = 8192
_SAMPLE = 0x3A9
"""Key of the random draws."""


def project(features: Float[Tensor, "n f"], projection: Projection, *, seed: int = 0) -> Float[np.ndarray, "n 2"]:
    """Return a position in the plane for each row, near those of similar rows as far as a plane allows.

    Args:
        features: compared by direction.
        projection: "tsne": keeps neighborhoods; 1,500 rows are placed by t-SNE, the others between the most similar of these; "pca": the two
            directions of most variance; "umap": keeps neighborhoods, slower, extra `umap`. All are reproducible.
        seed: random seed of UMAP, and of the samples.
    Raises:
        ConfigError: another projection, or umap is not installed.

    Source: van der Maaten and Hinton, 2008, by scikit-learn. Placing the others is ours: how well it keeps neighbors is in docs/log.md.
    """
    check_projection(projection)
    if len(features) < 2:
        return np.zeros((len(features), 2), dtype=np.float32)
    n = len(features)
    if projection == "pca" or n < _FEWEST:
        places = _components(features, 2, seed)
        return np.pad(places, ((0, 0), (0, 2 - places.shape[1]))).astype(np.float32)
    if projection == "tsne":
        return _around_landmarks(features, seed)
    import umap

    # With a seed umap uses one job; n_jobs=1 avoids its warning.
    places = umap.UMAP(metric="cosine", n_neighbors=min(15, n - 1), random_state=seed, n_jobs=1).fit_transform(normalize(features).numpy())
    return places.astype(np.float32)


def _components(features: Float[Tensor, "n f"], n: int, seed: int) -> Float[np.ndarray, "n c"]:
    """Return the leading principal components of the rows' directions; fewer if there are not so many."""
    sample = torch.from_numpy(randomness.permutation(len(features), seed, _SAMPLE)[:_MOST]).sort().values
    with np.errstate(invalid="ignore"):  # scikit-learn divides by the variance of constant features
        pca = PCA(min(n, len(sample), features.shape[1]), svd_solver="covariance_eigh").fit(normalize(features[sample]).double().numpy())
    return np.concatenate([pca.transform(normalize(rows).double().numpy()) for rows in features.split(_MOST)])


def _around_landmarks(features: Float[Tensor, "n f"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Return the map of some rows by t-SNE, and the others between the most similar of these."""
    sample = torch.from_numpy(randomness.permutation(len(features), seed, _SAMPLE)[:_LANDMARKS]).sort().values
    landmarks = normalize(features[sample])
    center = landmarks.mean(dim=0)
    landmarks = normalize(landmarks - center)
    components = _components(landmarks, _COMPONENTS, seed)
    start = components[:, :2] / max(float(components[:, 0].std()), 1e-12) * 1e-4  # as scikit-learn starts from principal components
    if start.shape[1] < 2 or not np.isfinite(start).all():
        return np.pad(components[:, :1], ((0, 0), (0, 1))).astype(np.float32)
    perplexity = min(_PERPLEXITY, (len(sample) - 1) / 3)
    with threadpool_limits(1, user_api="openmp"):  # sums over several threads differ in rounding, and so would the maps
        tsne = TSNE(2, init=start, perplexity=perplexity, max_iter=_ITERATIONS, random_state=seed)
        of_landmarks = torch.from_numpy(tsne.fit_transform(components))
    places = []
    for rows in features.split(_ROWS):
        cosines, nearest = (normalize(normalize(rows) - center) @ landmarks.T).topk(min(_N_NEAREST, len(sample)), dim=1)
        weights = cosines.clamp(min=1e-3) ** _SHARPNESS
        places.append((of_landmarks[nearest] * (weights / weights.sum(dim=1, keepdim=True))[:, :, None]).sum(dim=1))
    found = torch.cat(places)
    found[sample] = of_landmarks
    return found.numpy().astype(np.float32)


def check_projection(projection: str) -> None:
    """Raise the ConfigError that `project` would raise."""
    if projection not in ("tsne", "pca", "umap"):
        raise ConfigError(f"map {projection!r} must be tsne, pca or umap")
    if projection == "umap" and find_spec("umap") is None:
        raise ConfigError("map umap needs the extra: pip install 'selfcluster[umap]'")
