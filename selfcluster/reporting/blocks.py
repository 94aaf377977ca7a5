"""Passes over features in blocks, so that those of a million images stay in their file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

_ROWS = 8192


def mean_row(features: Float[np.ndarray, "n f"], rows: Int64[np.ndarray, " r"]) -> Float[Tensor, " f"]:
    """Return the mean of some rows; values that are not finite count as 0."""
    total = torch.zeros(features.shape[1], dtype=torch.float64)
    for _, block in _blocks(features, rows):
        total += block.sum(dim=0, dtype=torch.float64)
    return (total / max(1, len(rows))).float()


def unit_sums(
    features: Float[np.ndarray, "n f"], group: Int64[np.ndarray, " n"], n_groups: int, center: Float[Tensor, " f"] | None = None
) -> Float[Tensor, "g f"]:
    """Return the sum of each group's rows, centered and scaled to unit norm.

    Args:
        features: values that are not finite count as 0.
        group: of each row; -1 for none.
        n_groups: number of groups.
        center: subtracted from each row.
    """
    sums = torch.zeros(n_groups, features.shape[1])
    for part, unit in unit_blocks(features, np.flatnonzero(group >= 0), center):
        sums.index_add_(0, torch.from_numpy(group[part]), unit)
    return sums


def unit_blocks(
    features: Float[np.ndarray, "n f"], rows: Int64[np.ndarray, " r"], center: Float[Tensor, " f"] | None = None
) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b f"]]]:
    """Yield some rows' numbers, and the rows centered and scaled to unit norm."""
    for part, block in _blocks(features, rows):
        yield part, normalize(block if center is None else block - center)


def _blocks(
    features: Float[np.ndarray, "n f"], rows: Int64[np.ndarray, " r"]
) -> Iterator[tuple[Int64[np.ndarray, " b"], Float[Tensor, "b f"]]]:
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        yield part, torch.from_numpy(features[part]).nan_to_num()
