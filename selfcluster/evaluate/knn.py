"""Weighted nearest neighbours: how often an image's neighbours share its class."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

_CHUNK = 1024


def run(
    train: Float[Tensor, "n f"],
    train_labels: NDArray[np.int64],
    test: Float[Tensor, "m f"],
    test_labels: NDArray[np.int64],
    *,
    ks: tuple[int, ...] = (20, 200),
    temperature: float = 0.1,
) -> Iterator[tuple[str, float]]:
    """Yields `eval/knn_top1_k20` and so on: the share of test images whose weighted vote is right.

    Each of the k nearest training images votes for its class with weight exp(cosine / temperature); features are brought to unit
    norm, not centred.

    Args:
        train, test: features.
        train_labels, test_labels: class of each row, from 0.
        ks: neighbours that vote; each is lowered below the smallest class of the training images (see `usable_k`).
        temperature: of the weights; 0.1 by convention.
    Source: instance discrimination, arXiv 1805.01978, section 3.4.
    """
    used = [usable_k(k, train_labels) for k in ks]
    right = torch.zeros(len(ks))
    bank, bank_labels = normalize(train), torch.from_numpy(train_labels)
    n_classes = int(max(train_labels.max(), test_labels.max())) + 1
    for start in range(0, len(test), _CHUNK):
        cosine, neighbour = (normalize(test[start : start + _CHUNK]) @ bank.T).topk(max(used), dim=1)
        weights, labels = (cosine / temperature).exp(), bank_labels[neighbour]
        wanted = torch.from_numpy(test_labels[start : start + _CHUNK])
        for i, k in enumerate(used):
            votes = torch.zeros(len(wanted), n_classes).scatter_add_(1, labels[:, :k], weights[:, :k])
            right[i] += (votes.argmax(dim=1) == wanted).sum()
    for k, share in zip(ks, (right / len(test)).tolist(), strict=True):
        yield f"eval/knn_top1_k{k}", share


def usable_k(k: int, train_labels: Int64[np.ndarray, n]) -> int:
    """k, or where the smallest class has not so many images, one less than it has: more would outvote that class."""
    return max(1, min(k, int(np.bincount(train_labels)[np.unique(train_labels)].min()) - 1))
