"""What a method remembers across batches."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from selfcluster import distributed


class Queue(nn.Module):
    """The last embeddings of each assign crop, newest batch in front; complete from the start, so a checkpoint has somewhere to go.

    Each rank holds its share of every batch. The saved state speaks of the whole, oldest batch first and each batch in global
    order, so that any number of ranks loads it.

    Args:
        length: embeddings kept for each assign crop, over all ranks; a multiple of the batch. Paper: 3840.
        batch: images in a step, over all ranks.
        n_assign: assign crops.
        width: of the embeddings.
    Source: SwAV, arXiv 2006.09882, section 4.1.
    """

    embeddings: Tensor

    def __init__(self, *, length: int, batch: int, n_assign: int, width: int) -> None:
        super().__init__()
        self.n_batches, self.n_local = length // batch, batch // distributed.n_ranks()
        self.register_buffer("embeddings", torch.zeros(n_assign, self.n_batches, self.n_local, width))
        self.n_filled = 0  # a plain number: reading it must not wait for the device

    @property
    def is_full(self) -> bool:
        """Whether every place holds an embedding; only then the queue is used."""
        return self.n_filled == self.n_batches

    def newest(self, share: float) -> Float[Tensor, "assign n d"]:
        """This rank's part of the newest batches that make up this share of the queue."""
        return self.embeddings[:, : round(share * self.n_batches)].flatten(1, 2)

    @torch.no_grad()
    def push(self, embeddings: Float[Tensor, "assign b d"]) -> None:
        """The batch is in front; the oldest is gone."""
        self.embeddings.copy_(torch.cat([embeddings[:, None], self.embeddings[:, :-1]], dim=1))
        self.n_filled = min(self.n_filled + 1, self.n_batches)

    def global_state(self) -> dict[str, Tensor]:
        """The whole queue, on every rank; collective."""
        ranks = distributed.gather_rows(self.embeddings[None])
        joined = ranks.permute(1, 2, 0, 3, 4).flatten(2, 3)
        return {"embeddings": joined.flip(1).contiguous(), "n_filled": torch.tensor(self.n_filled)}

    def load_global_state(self, state: dict[str, Tensor]) -> None:
        """This rank's share of a state from `global_state`."""
        mine = distributed.shard_of(state["embeddings"].shape[2])
        self.embeddings.copy_(state["embeddings"].flip(1)[:, :, mine])
        self.n_filled = int(state["n_filled"])
