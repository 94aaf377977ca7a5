"""SwAV: swapped prediction of codes that Sinkhorn-Knopp computes online.

The scores of each large crop a of an image give a soft code q_a, balanced over the batch so that every prototype is used equally. The network
predicts q_a from every other crop of the image. Images are compared with prototypes and never with each other; the balance keeps them from
all sharing one code.

Source: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", arXiv 2006.09882.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from selfcluster.clustering.sinkhorn import sinkhorn
from selfcluster.data.loader import Batch
from selfcluster.methods.base import Codes, Method
from selfcluster.methods.losses import swapped_loss
from selfcluster.methods.memory import Queue
from selfcluster.models.heads import Prototypes
from selfcluster.models.model import ClusterModel, Outputs
from selfcluster.settings.config import Config, SwavSettings

_QUEUE_GROWTH_EPOCHS = 1.0
"""Epochs over which the share of the queue in use grows to all; when the whole queue joins at one step, the codes change suddenly, which can
break training."""


@final
class SwAV(Method[Codes]):
    """Assign by Sinkhorn-Knopp over the batch, and a queue where there is one; predict by swapped prediction.

    Deviations: the queue joins gradually, over an epoch, where the paper switches it on at one step. Batch norm is over the whole batch, where
    the paper's large runs use groups of 512 images.
    """

    def __init__(self, config: Config[SwavSettings], model: ClusterModel, trained_on: NDArray[np.int64], **steps: int) -> None:
        super().__init__(config, model, trained_on, **steps)
        assert isinstance(model.prototypes, Prototypes)
        self.settings, self.prototypes = config.objective, model.prototypes
        self.queue = (
            Queue(
                length=self.settings.queue_length,
                batch=config.optim.batch,
                n_assign=model.n_assign,
                width=self.prototypes.weight.shape[1],
                device=self.prototypes.weight.device,
            )
            if self.settings.queue_length
            else None
        )
        self.step = 0

    @property
    def settles_at(self) -> int:
        return max(self.settings.freeze_steps, super().settles_at)

    @torch.no_grad()
    def assign(self, out: Outputs, batch: Batch) -> Codes:
        """Return the codes of the large crops, balanced together with the queue where it is in use."""
        scores = out.scores[0][: self.model.n_assign].detach()
        n_images = scores.shape[1]
        if self.queue is not None and self.queue.is_full and (share := self.queue_share()):
            queued = linear(self.queue.newest(share), self.prototypes.weight)
            scores = torch.cat([queued, scores], dim=1)
        codes = [sinkhorn(s, epsilon=self.settings.epsilon, iterations=self.settings.iterations)[-n_images:] for s in scores]
        return Codes(torch.stack(codes))

    def queue_share(self) -> float:
        """Return the share of a full queue in use: none before its epoch, then growing to all."""
        begins = self.settings.queue_from_epoch * self.steps_per_epoch
        growth = _QUEUE_GROWTH_EPOCHS * self.steps_per_epoch
        return min(1.0, max(0, self.step - begins + 1) / max(1.0, growth))

    def loss(self, out: Outputs, targets: Codes) -> Tensor:
        """Return the loss of swapped prediction."""
        return swapped_loss(out.scores[0], targets.codes, temperature=self.settings.temperature)

    def before_update(self, step: int) -> None:
        """Drop the gradient of frozen prototypes, so that neither momentum nor weight decay moves them."""
        if step < self.settings.freeze_steps:
            self.prototypes.weight.grad = None

    def after_update(self, out: Outputs, batch: Batch, step: int) -> None:
        """Normalize the prototypes and push the batch into the queue."""
        self.prototypes.normalize()
        if self.queue is not None:
            self.queue.push(out.embeddings[: self.model.n_assign].detach())
        self.step = step + 1

    def state_dict(self) -> dict[str, Tensor]:
        state = {"step": torch.tensor(self.step)}
        return state if self.queue is None else state | self.queue.global_state()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.step = int(state["step"])
        if self.queue is not None:
            self.queue.load_global_state(state)
