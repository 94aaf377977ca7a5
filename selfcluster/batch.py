"""The few records that pass between rooms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch."""

    index: Int64[Tensor, " b"]
    """Position of each image in the data set."""
    crops: list[Float[Tensor, "b 3 _ _"]]
    """Every crop of every image, large ones first."""


@dataclass(frozen=True)
class Outputs:
    """What the model says of a batch, crop by crop in the batch's order."""

    features: Float[Tensor, "assign b f"]
    """The encoder's output for the large crops."""
    embeddings: Float[Tensor, "crops b d"]
    """After the head, of unit norm."""
    scores: Float[Tensor, "crops b k"]
    """Cosine of each embedding with each prototype."""


@dataclass(frozen=True)
class Targets:
    """What the network is trained to predict; made without gradient."""

    codes: Float[Tensor, "assign b k"]
    """Soft assignments of the large crops; rows sum to 1."""


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch trains on, in which order. Part of every checkpoint."""

    order: NDArray[np.int64]
    """Image indices in the order of training; an index may occur several times."""
    occurrence: NDArray[np.int64] = field(init=False)
    """How often the same index stood earlier in the order, so that each occurrence gets crops of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "occurrence", _occurrences(self.order))


def _occurrences(order: NDArray[np.int64]) -> NDArray[np.int64]:
    by_index = np.argsort(order, kind="stable")
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.diff(order[by_index]) != 0
    run_starts = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    occurrence = np.empty(len(order), dtype=np.int64)
    occurrence[by_index] = np.arange(len(order)) - run_starts
    return occurrence
