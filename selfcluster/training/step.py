"""The training step: forward, assign, predict, update. Used by the loop and by everything that measures a step.

With `accumulate`, a batch that is too large for the memory goes through the network in parts. Summing gradients alone is not enough, since
Sinkhorn-Knopp balances codes over a batch. So all parts go through the network without gradient first, targets are computed from all of them,
and then each part goes through the network again and predicts its own. Only batch norm differs from the whole batch: its statistics are those
of a part.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

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
    """Outputs, targets and loss of one step."""

    out: Outputs
    targets: Targets
    loss: Tensor
    """Loss of this rank's whole batch, without gradient."""
    lr: float


def step(t: Training, batch: Batch) -> StepResult:
    """Train the network on one batch; collective.

    Args:
        t: the training; the caller counts `state.step`.
        batch: this rank's share.
    Raises:
        DivergenceError: the embeddings are not finite (on a CPU, where the check costs nothing; see `Watch` for other devices).
    """
    n, parts = t.state.step, batch.parts(t.config.optim.accumulate)
    lr = optim.set_lr(t.optimizers, t.state.stretch.at(n, t.method.total_steps))
    out = _forward(t, t.parallel, batch) if len(parts) == 1 else _forward_parts(t, parts)
    if t.device.type == "cpu":
        require_finite(out.embeddings, "embeddings", n, together=True)
    targets: Targets = t.method.assign(out, batch)
    if len(parts) == 1:
        loss = t.method.loss(out, targets)
        t.backward(loss)
    else:
        loss = _backward_parts(t, parts, targets)
    t.method.before_update(n)
    optim.clip_gradients(t.optimizers, t.config.optim.clip_norm)
    optim.update(t.optimizers)
    t.method.after_update(out, batch, n)
    return StepResult(out, targets, loss.detach(), lr)


@torch.no_grad()
def _forward_parts(t: Training, parts: list[Batch]) -> Outputs:
    """Return the network's outputs for the whole batch, without gradient."""
    with running_statistics_kept(t.model):
        return Outputs.joined([_forward(t, t.model, part, place) for place, part in enumerate(parts)])


def _backward_parts(t: Training, parts: list[Batch], targets: Targets) -> Tensor:
    """Add up the gradients of the parts, and return the loss of the whole batch."""
    losses = []
    for place, (part, of_part) in enumerate(zip(parts, targets.parts(len(parts)), strict=True)):
        # Ranks exchange gradients once, with the last part.
        is_last = place == len(parts) - 1
        with t.parallel.no_sync() if isinstance(t.parallel, DistributedDataParallel) and not is_last else contextlib.nullcontext():
            loss = t.method.loss(_forward(t, t.parallel, part, place), of_part) / len(parts)
            t.backward(loss)
        losses.append(loss.detach())
    return torch.stack(losses).sum()


def _forward(t: Training, network: nn.Module, batch: Batch, *place: int) -> Outputs:
    """Return the outputs for a batch, or for its part at a place; dropout is a function of step, rank and place, so both passes agree."""
    randomness.reseed(t.config.run.seed, t.state.step, distributed.rank(), *place)
    with t.autocast():
        return network(batch.crops)
