"""The training step: look, assign, predict, update. Written once, for the loop and for whatever measures a step.

With `accumulate`, a batch that is too large for the memory goes through the network in parts. Adding up gradients alone would not do:
Sinkhorn-Knopp balances codes over a batch, and would be given small ones. So all parts are looked at first, without gradient; targets
are made from them together; then each part goes through the network once more and predicts its own. What differs from the whole batch
at once is batch norm, whose statistics are those of a part.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfcluster import distributed, optim, randomness
from selfcluster.data.loader import Batch
from selfcluster.methods.base import Targets
from selfcluster.models.batch_norm import running_statistics_kept
from selfcluster.models.model import Outputs
from selfcluster.training.collapse import require_finite
from selfcluster.training.state import Training


@dataclass(frozen=True)
class StepResult:
    """What one step saw and did."""

    out: Outputs
    targets: Targets
    loss: Tensor
    """Of the whole batch of this rank, without gradient."""
    lr: float


def step(t: Training, batch: Batch) -> StepResult:
    """Update the network once, on one batch; collective.

    Args:
        t: whose `state.step` says which step this is; counting it is the caller's.
        batch: this rank's share.
    Raises:
        DivergenceError: the embeddings are not finite (on a CPU, where looking costs nothing; see `Watch` for the others).
    """
    n, parts = t.state.step, batch.parts(t.config.optim.accumulate)
    lr = optim.set_lr(t.optimizers, n)
    out = _forward(t, t.parallel, batch) if len(parts) == 1 else _look(t, parts)
    if t.device.type == "cpu":
        require_finite(out.embeddings, "embeddings", n)
    targets: Any = t.method.assign(out, batch)
    if len(parts) == 1:
        loss = t.method.loss(out, targets)
        t.backward(loss)
    else:
        loss = _predict(t, parts, targets)
    t.method.before_update(n)
    optim.clip_gradients(t.optimizers, t.config.optim.clip_norm)
    optim.update(t.optimizers)
    t.method.after_update(out, batch, n)
    return StepResult(out, targets, loss.detach(), lr)


@torch.no_grad()
def _look(t: Training, parts: list[Batch]) -> Outputs:
    """The network's outputs for the whole batch, without gradient."""
    with running_statistics_kept(t.model):
        return Outputs.joined([_forward(t, t.model, part, place) for place, part in enumerate(parts)])


def _predict(t: Training, parts: list[Batch], targets: Any) -> Tensor:
    """The loss of the whole batch; its gradients are in the parameters."""
    losses = []
    for place, (part, of_part) in enumerate(zip(parts, targets.parts(len(parts)), strict=True)):
        # The ranks add up their gradients once, with those of the last part.
        is_last = place == len(parts) - 1
        with t.parallel.no_sync() if isinstance(t.parallel, DistributedDataParallel) and not is_last else contextlib.nullcontext():
            loss = t.method.loss(_forward(t, t.parallel, part, place), of_part) / len(parts)
            t.backward(loss)
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _forward(t: Training, network: nn.Module, batch: Batch, *place: int) -> Outputs:
    """The outputs for a batch, or for its part at a place; dropout follows step, rank and place, so it is the same each time."""
    randomness.reseed(t.config.run.seed, t.state.step, distributed.rank(), *place)
    with t.autocast():
        return network(batch.crops)
