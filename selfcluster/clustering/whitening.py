"""Whitening: principal components of unit variance, then rows of unit norm.

A few directions of raw features carry most of the variance, and would dominate k-means. After whitening, every direction has the same
weight; with unit norm, every image has.

Source: DeepCluster, arXiv 1807.05520, section 3.2 ("PCA-reduced to 256 dimensions, whitened and l2-normalized").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import distributed

_BLOCK_VALUES = 1 << 22
"""Values read at a time."""


@dataclass(frozen=True)
class Whitening:
    """A whitening transformation; part of a method's state, so that new images are whitened in the same way."""

    mean: Float[Tensor, " f"]
    components: Float[Tensor, "f d"]
    """Principal directions, each divided by its standard deviation."""
    spread: float
    """Root mean square distance of the features from their mean, divided by their root mean square length; 0 for constant features."""

    def __call__(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n d"]:
        """Return whitened rows of unit norm; a row at the mean stays zero."""
        return normalize((features - self.mean) @ self.components)


def fit_whitening(features: Tensor | np.ndarray, width: int = 256, *, floor: float = 1e-5, device: torch.device | None = None) -> Whitening:
    """Fit a whitening to these features.

    Args:
        features: (n, f), this rank's rows; the result is that of all ranks' rows together. A memory map is read in blocks.
        width: components to keep; at most f, and at most one fewer than there are rows. Paper: 256.
        floor: eigenvalues are raised to this share of the largest, since dead units would be whitened into noise.
        device: where to compute; None for the features' device.
    Raises:
        ValueError: fewer than two rows over all ranks.
    Source: DeepCluster, arXiv 1807.05520, section 3.2. Deviations: the floor; the covariance is summed in float64.
    """
    n_features, device = features.shape[1], device or (features.device if isinstance(features, Tensor) else torch.device("cpu"))
    kind = torch.float32 if device.type == "mps" else torch.float64
    sums = torch.zeros(n_features + 2, dtype=kind, device=device)
    for block in blocks_of(features, device):
        block = block.to(kind)
        sums += torch.cat([block.sum(dim=0), torch.stack([block.square().sum(), block.new_tensor(len(block))])])
    sums = distributed.all_reduce_sum(sums)
    n, squares = round(float(sums[-1])), float(sums[-2])
    if n < 2:
        raise ValueError(f"whitening needs at least two rows, got {n}")
    mean = sums[:-2] / n
    covariance = torch.zeros(n_features, n_features, dtype=kind, device=device)
    for block in blocks_of(features, device):
        centered = block.to(kind) - mean
        covariance += centered.T @ centered
    covariance = distributed.all_reduce_sum(covariance) / n
    # The sign of a direction is arbitrary and may differ between processors, so rank 0 decides.
    found = tuple(torch.linalg.eigh(covariance.cpu())) if distributed.rank() == 0 else ()
    values, directions = (x.to(device, kind) for x in distributed.of_rank_0(found))
    kept = slice(n_features - min(width, n_features, n - 1), None)
    values, directions = values[kept].flip(0), directions[:, kept].flip(1)
    largest = values[0].clamp(min=0)
    scale = torch.where(largest > 0, values.clamp(min=floor * largest).rsqrt(), 0)
    spread = (float(covariance.trace()) * n / squares) ** 0.5 if squares > 0 else 0.0
    return Whitening(mean.float(), (directions * scale).float(), spread)


def blocks_of(rows: Tensor | np.ndarray, device: torch.device) -> Iterator[Float[Tensor, "n f"]]:
    """Yield the rows in float32 on the device, block by block."""
    step = max(1, _BLOCK_VALUES // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        yield (block if isinstance(block, Tensor) else torch.from_numpy(np.array(block))).to(device, torch.float32)
