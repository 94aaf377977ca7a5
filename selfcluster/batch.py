"""The few records that pass between rooms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """What the model says of a batch, crop by crop in the batch's order."""

    features: Float[Tensor, "assign b f"]
    """The encoder's output for the large crops."""
    embeddings: Float[Tensor, "crops b d"]
    """After the head, of unit norm."""
    scores: list[Float[Tensor, "crops b _"]]
    """For each head: cosine of each embedding with each prototype (DeepCluster: what the top layer says of each cluster)."""

    @classmethod
    def joined(cls, parts: list[Outputs]) -> Outputs:
        """Those of a batch from those of its parts."""
        of_heads = zip(*(part.scores for part in parts), strict=True)
        return cls(
            features=torch.cat([part.features for part in parts], dim=1),
            embeddings=torch.cat([part.embeddings for part in parts], dim=1),
            scores=[torch.cat(of_head, dim=1) for of_head in of_heads],
        )


@dataclass(frozen=True)
class Codes:
    """Soft targets, made online and without gradient."""

    codes: Float[Tensor, "assign b k"]
    """Soft assignments of the large crops; rows sum to 1."""

    def parts(self, n: int) -> list[Codes]:
        """The targets of a batch's n parts."""
        return [Codes(codes) for codes in self.codes.chunk(n, dim=1)]


@dataclass(frozen=True)
class PseudoLabels:
    """Hard targets, one an image for all its crops; from the last clustering of the data set."""

    labels: list[Int64[Tensor, " b"]]
    """For each head: the cluster of each image; -1 means none yet."""
    n_valid: Float[Tensor, ""]
    """Images of the global batch that have a label, divided by the ranks."""

    def parts(self, n: int) -> list[PseudoLabels]:
        """The targets of a batch's n parts; the mean of the parts' losses is the batch's."""
        of_parts = zip(*(of_head.chunk(n) for of_head in self.labels), strict=True)
        return [PseudoLabels(list(labels), self.n_valid / n) for labels in of_parts]


Targets = Codes | PseudoLabels
"""What the network is trained to predict."""


@dataclass(frozen=True)
class Rows:
    """What was extracted from the images of this rank, by their position in the data set."""

    index: NDArray[np.int64]
    """(n,), rising; each image stands on one rank only. Images that cannot be read are left out."""
    values: NDArray[np.float32]
    """(n, ...), in memory or in a file that is mapped into it."""
