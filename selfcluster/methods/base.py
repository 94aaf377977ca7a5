"""What a method is: an algorithm with two central verbs, assign (give every image a target) and loss (predict it).

The model is what data parallelism wraps; the method is a plain class with its own state, complete after `__init__`. It never
sees the loop, the optimisers or the rank.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import randomness
from selfcluster.batch import Batch, EpochPlan, Outputs, Targets
from selfcluster.config import Config
from selfcluster.model import ClusterModel
from selfcluster.optim import ParameterGroup, cosine

Extract = Callable[..., Any]
"""`extract("features" | "embeddings", view="centre" | "assign")`: this rank's rows with their indices, for offline methods."""


class Method(abc.ABC):
    """An algorithm that alternates assigning and predicting.

    Args:
        config: all settings.
        model: the bare model, on its device.
        trained_on: indices of the images to train on.
        steps_per_epoch, total_steps: of the run.
    """

    def __init__(
        self, config: Config[Any], model: ClusterModel, trained_on: NDArray[np.int64], *, steps_per_epoch: int, total_steps: int
    ) -> None:
        self.config, self.model, self.trained_on = config, model, trained_on
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps

    @abc.abstractmethod
    def assign(self, out: Outputs, batch: Batch) -> Targets:
        """Targets for the batch, without gradient; every collective of a step lives here."""

    @abc.abstractmethod
    def loss(self, out: Outputs, targets: Targets) -> Tensor:
        """How badly the network predicts the targets; pure and local, the mean over ranks is the loss of the joined batch."""

    def begin_epoch(self, epoch: int, extract: Extract) -> EpochPlan:
        """What the epoch trains on: by default every image once, in an order of the epoch's own."""
        order = self.trained_on[randomness.permutation(len(self.trained_on), self.config.run.seed, epoch)]
        return EpochPlan(order)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Who is trained, by which optimiser and schedule: by default the whole model by the one of the settings."""
        o = self.config.optim
        schedule = cosine(
            lr=o.lr,
            final_lr=o.final_lr,
            total_steps=self.total_steps,
            warmup_steps=round(o.warmup_epochs * self.steps_per_epoch),
            warmup_lr=o.warmup_lr,
        )
        return [ParameterGroup("model", list(self.model.parameters()), o.optimizer, schedule, o.momentum, o.weight_decay)]

    def before_update(self, step: int) -> None:
        """After the gradients are there, before they are used."""

    def after_update(self, out: Outputs, batch: Batch, step: int) -> None:
        """After the parameters have changed."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the method remembers beside the model, for the whole of all ranks; collective."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The method remembers what `state_dict` gave, on any number of ranks."""
