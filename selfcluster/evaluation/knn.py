"""Weighted k-nearest-neighbor classification of frozen features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering.neighbors import nearest_neighbors
from selfcluster.evaluation.standard_errors import mean_and_error

_CHUNK = 1024


def measure(
    train: Float[Tensor, "n f"],
    train_labels: NDArray[np.int64],
    test: Float[Tensor, "m f"],
    test_labels: NDArray[np.int64],
    *,
    ks: tuple[int, ...] = (20, 200),
    temperature: float = 0.1,
    device: torch.device | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield the accuracy for each k, `eval/knn_top1_k20` and so on, each with its standard error.

    Each of the k nearest training images votes for its class with weight exp(cosine / temperature). Features are normalized to unit
    length, not centered.

    Args:
        train, test: features.
        train_labels, test_labels: class of each row, from 0.
        ks: numbers of neighbors that vote; each is lowered below the size of the smallest training class (see `usable_k`).
        temperature: temperature of the weights; 0.1 by convention.
        device: where to search; None for the device of the features.
    Source: instance discrimination, arXiv 1805.01978, section 3.4.
    """
    used = [usable_k(k, train_labels) for k in ks]
    device = device or train.device
    neighbors, cosines = nearest_neighbors(test, max(used), normalize(train.to(device)), device=device)
    weights, labels = (cosines / temperature).exp(), torch.from_numpy(train_labels)[neighbors]
    n_classes = int(max(train_labels.max(), test_labels.max())) + 1
    for k, n_voters in zip(ks, used, strict=True):
        voters = zip(labels[:, :n_voters].split(_CHUNK), weights[:, :n_voters].split(_CHUNK), strict=True)
        votes = [weight.new_zeros(len(weight), n_classes).scatter_add_(1, label, weight).argmax(dim=1) for label, weight in voters]
        yield from mean_and_error(f"eval/knn_top1_k{k}", torch.cat(votes).numpy() == test_labels)


def usable_k(k: int, train_labels: Int64[np.ndarray, " n"]) -> int:
    """Return k, lowered to one less than the size of the smallest class, which more neighbors would outvote."""
    return max(1, min(k, int(np.bincount(train_labels)[np.unique(train_labels)].min()) - 1))
