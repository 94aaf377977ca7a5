"""Embeddings kept across batches: SwAV's queue, and the memory bank of DeepCluster-v2 and SeLa-v2."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import distributed
from selfcluster.models.rows import Rows


class Queue:
    """The latest embeddings of each assign crop, newest batch first; of full size from the start, so that a checkpoint can be loaded.

    Each rank keeps its share of every batch. The saved state is joined over ranks, oldest batch first and each batch in global order, so that
    any number of ranks can load it.

    Args:
        length: embeddings kept for each assign crop, over all ranks; a multiple of the batch. Paper: 3840.
        batch: images in a step, over all ranks.
        n_assign: number of assign crops.
        width: width of the embeddings.
        device: device of the queue.
    Source: SwAV, arXiv 2006.09882, section 4.1.
    """

    def __init__(self, *, length: int, batch: int, n_assign: int, width: int, device: torch.device) -> None:
        self.n_batches = length // batch
        self.embeddings = torch.zeros(n_assign, self.n_batches, batch // distributed.n_ranks(), width, device=device)
        self.n_filled = 0  # not a tensor: reading it must not wait for the device

    @property
    def is_full(self) -> bool:
        """Whether every place is filled; the queue is used only then."""
        return self.n_filled == self.n_batches

    def newest(self, share: float) -> Float[Tensor, "assign n d"]:
        """Return this rank's part of the newest batches that make up this share of the queue."""
        return self.embeddings[:, : round(share * self.n_batches)].flatten(1, 2)

    @torch.no_grad()
    def push(self, embeddings: Float[Tensor, "assign b d"]) -> None:
        """Insert the batch in front and drop the oldest."""
        self.embeddings.copy_(torch.cat([embeddings[:, None], self.embeddings[:, :-1]], dim=1))
        self.n_filled = min(self.n_filled + 1, self.n_batches)

    def global_state(self) -> dict[str, Tensor]:
        """Return the whole queue, on every rank; collective."""
        ranks = distributed.gather_rows(self.embeddings[None])
        joined = ranks.permute(1, 2, 0, 3, 4).flatten(2, 3)
        return {"embeddings": joined.flip(1).contiguous(), "n_filled": torch.tensor(self.n_filled)}

    def load_global_state(self, state: Mapping[str, Tensor]) -> None:
        """Load this rank's share of a state from `global_state`."""
        mine = distributed.shard_of(state["embeddings"].shape[2])
        self.embeddings.copy_(state["embeddings"].flip(1)[:, :, mine])
        self.n_filled = int(state["n_filled"])


_EXCHANGED = 4096
"""Rows that each rank sends at a time while the bank is filled."""


class MemoryBank:
    """The latest embeddings of each image's assign crops, keyed by the image's index in the data set.

    Each rank owns a slice of the images, whichever rank sees them in a batch; the saved state covers all images.

    Args:
        trained_on: indices of the images, ascending.
        n_assign: number of assign crops.
        width: width of the embeddings.
        device: device of the rank's slice.
    Source: DeepCluster-v2, arXiv 2006.09882, appendix C.
    """

    def __init__(self, trained_on: NDArray[np.int64], *, n_assign: int, width: int, device: torch.device) -> None:
        self.trained_on = torch.from_numpy(trained_on)
        n, ranks, rank = len(trained_on), distributed.n_ranks(), distributed.rank()
        self.first, end = n * rank // ranks, n * (rank + 1) // ranks
        self.embeddings = torch.zeros(n_assign, end - self.first, width, device=device)
        self.is_filled = torch.zeros(end - self.first, dtype=torch.bool, device=device)
        self.is_begun = False
        """Whether any image has been visited; the same on every rank."""

    @torch.no_grad()
    def write(self, index: Int64[Tensor, " b"], embeddings: Float[Tensor, "assign b d"]) -> None:
        """Store the embeddings of these images; collective, every rank passes the same number.

        An index of -1 is ignored, and of an image that occurs twice the last row counts.
        """
        device = self.embeddings.device
        # A single process has every index already, on the CPU; sending it to the device and back would wait for the device at every step.
        index = distributed.gather_rows(index.to(device)).cpu() if distributed.is_on() else index.cpu()
        values = distributed.gather_rows(embeddings.transpose(0, 1).to(device, torch.float32))
        self.is_begun = True
        _, from_behind = np.unique(index.numpy()[::-1], return_index=True)
        last = torch.from_numpy(len(index) - 1 - from_behind)
        place = torch.searchsorted(self.trained_on, index[last]) - self.first
        mine = (place >= 0) & (place < len(self.is_filled)) & (index[last] >= 0)
        place = place[mine].to(device)
        self.embeddings[:, place] = values[last[mine].to(device)].transpose(0, 1)
        self.is_filled[place] = True

    def fill(self, rows: Rows) -> None:
        """Store extracted embeddings (n, assign, d); collective, ranks may pass different numbers."""
        most = int(distributed.largest(len(rows.index)))
        for start in range(0, most, _EXCHANGED):
            part = slice(start, min(start + _EXCHANGED, most))
            index = torch.full((part.stop - start,), -1)
            values = torch.zeros(len(index), *rows.values.shape[1:])
            here = torch.from_numpy(rows.index[part])
            index[: len(here)], values[: len(here)] = here, torch.from_numpy(np.asarray(rows.values[part]))
            self.write(index, values.transpose(0, 1))

    def rows(self, crop: int) -> tuple[Float[Tensor, "n d"], Int64[Tensor, " n"]]:
        """Return this rank's embeddings of one assign crop for all images visited so far, and their index."""
        mine = self.trained_on[self.first : self.first + len(self.is_filled)]
        return self.embeddings[crop % len(self.embeddings)][self.is_filled], mine[self.is_filled.cpu()]

    def global_state(self) -> dict[str, Tensor]:
        """Return the bank of all images, on every rank; collective."""
        n = len(self.trained_on)
        whole = self.embeddings.new_zeros(len(self.embeddings), n, self.embeddings.shape[-1])
        is_filled = torch.zeros(n, dtype=torch.int64, device=self.is_filled.device)
        mine = slice(self.first, self.first + len(self.is_filled))
        whole[:, mine], is_filled[mine] = self.embeddings, self.is_filled.long()
        return {"embeddings": distributed.all_reduce_sum(whole), "is_filled": distributed.all_reduce_sum(is_filled)}

    def load_global_state(self, state: Mapping[str, Tensor]) -> None:
        """Load this rank's share of a state from `global_state`."""
        mine = slice(self.first, self.first + len(self.is_filled))
        self.embeddings.copy_(state["embeddings"][:, mine])
        self.is_filled.copy_(state["is_filled"][mine])
        self.is_begun = bool(state["is_filled"].any())
