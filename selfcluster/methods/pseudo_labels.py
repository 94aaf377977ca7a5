"""Pseudo-labels of offline methods: the table that assign looks up, and the metrics of a clustering."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import distributed
from selfcluster.clustering import metrics
from selfcluster.errors import ConfigError, DataError
from selfcluster.methods.base import PseudoLabels


class PseudoLabelTable:
    """The cluster of each image for each head, by the image's index in the data set; -1 for none yet. The same on every rank.

    Args:
        n_heads: number of clusterings.
        trained_on: indices of the images, ascending.
        device: device of the table.
    """

    def __init__(self, n_heads: int, trained_on: NDArray[np.int64], device: torch.device) -> None:
        self.whole = torch.full((n_heads, int(trained_on[-1]) + 1), -1, dtype=torch.int64, device=device)

    def of_head(self, head: int) -> NDArray[np.int64]:
        """Return the labels of one head, on the CPU."""
        return self.whole[head].cpu().numpy()

    def targets(self, index: Int64[Tensor, " b"]) -> PseudoLabels:
        """Return the labels of a batch; collective."""
        labels = self.whole[:, index.to(self.whole.device)]
        n_valid = distributed.all_reduce_sum((labels[0] >= 0).sum().float()) / distributed.n_ranks()
        return PseudoLabels(list(labels), n_valid)

    def update(self, assignments: list[Int64[Tensor, " n"]], index: NDArray[np.int64], sizes: list[Tensor]) -> dict[str, float]:
        """Replace the labels by those of a new clustering; collective.

        Args:
            assignments: for each head, the cluster of each of this rank's images.
            index: index of these images.
            sizes: for each head, images in each cluster over all ranks.
        Returns:
            metrics by name: those of the worst head, and the mean over heads of the normalized mutual information with the previous labels.
        """
        before = self.whole.cpu().numpy()
        here = torch.full_like(self.whole, -1)
        here[:, torch.from_numpy(index).to(here.device)] = torch.stack(assignments).to(here.device)
        self.whole = distributed.all_reduce_max(here)
        after, sizes = self.whole.cpu().numpy(), [s.cpu() for s in sizes]
        figures = {
            "cluster/n_empty": float(max(int((s == 0).sum()) for s in sizes)),
            "cluster/largest_share": max(float(s.max() / s.sum()) for s in sizes),
            "cluster/size_smallest": float(min(int(s.min()) for s in sizes)),
            "cluster/size_median": float(np.median([float(s.double().median()) for s in sizes])),
            "cluster/size_largest": float(max(int(s.max()) for s in sizes)),
        }
        both = (before[0] >= 0) & (after[0] >= 0)
        if both.any():
            figures["cluster/nmi_previous"] = float(np.mean([metrics.nmi(a[both], b[both]) for a, b in zip(before, after, strict=True)]))
        return figures


def check_clusters(n_prototypes: tuple[int, ...], n_images: int) -> None:
    """Raise ConfigError if there are more clusters than images to train on."""
    if max(n_prototypes) > n_images:
        raise ConfigError(
            f"n_prototypes {max(n_prototypes):,} is more than the {n_images:,} images to train on; set --n-prototypes {max(2, n_images // 10)} or so"
        )


def require_enough(n_local: int, k: int) -> None:
    """Raise DataError if all ranks together have fewer readable images than clusters; collective."""
    n = int(distributed.total(n_local))
    if n < k:
        raise DataError(f"{n:,} readable images are fewer than the {k:,} clusters; set --n-prototypes {max(2, n // 10)} or less")
