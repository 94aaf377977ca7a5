"""Embeddings of images, computed once and cached in the run's folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed
from selfcluster.clustering.duplicates import thumbnails
from selfcluster.data.readers.images import Images
from selfcluster.distributed import logger
from selfcluster.errors import known
from selfcluster.inference.feature_cache import FeatureCache
from selfcluster.runs.log import with_progress
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import Layer

ROWS = 8192
"""Rows that go through the head at a time."""


@dataclass(frozen=True)
class Embeddings:
    """Features and thumbnails of images, in their order."""

    features: Float[np.ndarray, "n f"]
    """Output of the encoder; NaN for an unreadable image."""
    thumbnails: Float[np.ndarray, "n t"]
    """A few pixels of each image; see `duplicates.thumbnails`."""
    n_computed: int = 0
    """Images that went through the encoder; the others were cached."""
    seconds: float = 0.0
    """Time that they took."""


def embeddings_of(run: OpenRun, images: Images) -> Embeddings:
    """Return the features of images, computing and caching those that are not in the run's folder yet.

    They are cached unless `keep_features` is off, or the images are few and not the run's own. A warning is logged if the folder cannot be
    written or has no room, or if another process is computing the same features.
    """
    cache = FeatureCache(run, images)
    if cache.is_complete():
        return _split(cache.rows())
    start, n = time.monotonic(), len(images)
    with cache.claimed() as is_ours:
        if not is_ours:
            return _split(np.concatenate(list(_rows(run, images))), n, time.monotonic() - start)
        if cache.is_complete():  # another process has just finished
            return _split(cache.rows())
        n_cached = cache.resume()
        if n_cached:
            logger.info(f"resuming at image {n_cached:,} of {n:,}")
        cache.add(_rows(run, images, n_cached))
    logger.info(f"features are kept in {cache.folder} ({cache.n_bytes / 1e6:,.1f} MB)")
    return _split(cache.rows(), n - n_cached, time.monotonic() - start)


def kept_embeddings(run: OpenRun, images: Images) -> Embeddings | None:
    """Return the features of images if all of them are cached in the run's folder."""
    cache = FeatureCache(run, images)
    return _split(cache.rows()) if cache.is_complete() else None


def embed(run: OpenRun, images: Any = None, *, layer: Layer = "features") -> Float[np.ndarray, "n _"]:
    """Return a row for each image, in the order of the data.

    Args:
        run: provides the encoder.
        images: anything that `train` accepts; None for the run's own.
        layer: "features" (the encoder's output) or "head" (z, of unit norm; DeepCluster has no head, so it returns the features).
    Returns:
        float32; rows of unreadable images are NaN.
    """
    known(layer, ("features", "head"), "layer")
    with distributed.alone():
        features = torch.from_numpy(embeddings_of(run, run.data(images).images).features)
        return np.ascontiguousarray(in_layer(run, features, layer).numpy())


@torch.no_grad()
def in_layer(run: OpenRun, features: Float[Tensor, "n f"], layer: Layer) -> Float[Tensor, "n d"]:
    """Return the features themselves, or the head's output for them, in float32."""
    if layer == "features":
        return features
    return torch.cat([run.model.head(part.to(run.device)).float().cpu() for part in features.split(ROWS)])


def _rows(run: OpenRun, images: Images, begin: int = 0) -> Iterator[Float[np.ndarray, "b w"]]:
    """Yield features and thumbnails from an image on, reading every image once."""
    batches = run.stream(images, index=np.arange(begin, len(images)), extra=thumbnails)
    for batch in with_progress(batches, "embedding", len(images), n_done=begin):
        yield batch.numpy()


def _split(rows: Float[np.ndarray, "n w"], n_computed: int = 0, seconds: float = 0.0) -> Embeddings:
    return Embeddings(rows[:, : -thumbnails.width], rows[:, -thumbnails.width :], n_computed, seconds)
