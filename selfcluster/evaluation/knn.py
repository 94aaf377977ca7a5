"""Weighted k-nearest-neighbor classification of frozen features."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering.neighbors import nearest_neighbors
from selfcluster.evaluation.metric_titles import KNN
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

    Each of the k nearest training images votes for its class with weight exp(cosine / temperature).

    Args:
        train, test: features, centered by the mean of the training images; they are scaled to unit length here.
        train_labels, test_labels: class of each row, from 0.
        ks: numbers of neighbors that vote; with fewer training images, all of them vote, and the name contains their number.
        temperature: temperature of the weights; 0.1 by convention.
        device: where to search; None for the device of the features.
    Source: instance discrimination, arXiv 1805.01978, section 3.4.
    """
    ks = tuple(dict.fromkeys(min(k, len(train)) for k in ks))
    device = device or train.device
    neighbors, cosines = nearest_neighbors(test, max(ks), normalize(train.to(device)), device=device)
    weights, labels = (cosines / temperature).exp(), torch.from_numpy(train_labels)[neighbors]
    n_classes = int(max(train_labels.max(), test_labels.max())) + 1
    for k in ks:
        voters = zip(labels[:, :k].split(_CHUNK), weights[:, :k].split(_CHUNK), strict=True)
        votes = [weight.new_zeros(len(weight), n_classes).scatter_add_(1, label, weight).argmax(dim=1) for label, weight in voters]
        yield from mean_and_error(f"{KNN}{k}", torch.cat(votes).numpy() == test_labels)
