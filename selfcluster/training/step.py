"""A batch that is too large for the memory goes through the network in parts: first all codes, then part by part the gradients.

To add up gradients alone would not do: Sinkhorn-Knopp balances codes over a batch, and would be given small ones. So all parts are
looked at first, without gradient; the targets are made from them together; then each part goes through the network once more and
predicts its own. What differs from the whole batch at once is batch norm, whose statistics are those of a part.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfcluster import distributed, randomness
from selfcluster.data.loader import Batch
from selfcluster.methods.base import Targets
from selfcluster.models.batch_norm import running_statistics_kept
from selfcluster.models.model import Outputs
from selfcluster.training.state import Training


@torch.no_grad()
def look(t: Training, batch: Batch) -> Outputs:
    """What the network says of the whole batch, without gradient."""
    with running_statistics_kept(t.model):
        return Outputs.joined([_forward(t, t.model, part, place) for place, part in enumerate(_parts(t, batch))])


def predict(t: Training, batch: Batch, targets: Targets) -> Tensor:
    """The loss of the whole batch; its gradients are there."""
    losses, parts = [], _parts(t, batch)
    for place, (part, of_part) in enumerate(zip(parts, targets.parts(len(parts)), strict=True)):
        # The ranks add up their gradients once, with those of the last part.
        is_last = place == len(parts) - 1
        with t.parallel.no_sync() if isinstance(t.parallel, DistributedDataParallel) and not is_last else contextlib.nullcontext():
            loss = t.method.loss(_forward(t, t.parallel, part, place), of_part) / len(parts)
            t.backward(loss)
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _parts(t: Training, batch: Batch) -> list[Batch]:
    return batch.parts(t.config.optim.accumulate)


def _forward(t: Training, network: nn.Module, part: Batch, place: int) -> Outputs:
    """Dropout is the same both times."""
    randomness.reseed(t.config.run.seed, t.state.step, distributed.rank(), place)
    with t.autocast():
        return network(part.crops)
