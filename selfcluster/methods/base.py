"""What a method is: an algorithm with two central verbs, assign (give every image a target) and loss (predict it).

The model is what data parallelism wraps; the method is a plain class with its own state, complete after `__init__`. It never
sees the loop, the optimizers or the rank.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from selfcluster import randomness
from selfcluster.data.loader import Batch, EpochPlan
from selfcluster.models.features import Rows
from selfcluster.models.model import ClusterModel, Outputs, Prototypes, projection_head
from selfcluster.optim import ParameterGroup, Schedule, cosine
from selfcluster.settings.config import Config


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


@runtime_checkable
class Extract(Protocol):
    """What an offline method calls between epochs; collective."""

    def __call__(
        self, what: Literal["features", "embeddings"], *, view: Literal["center", "assign"] = "center", train_mode: bool = False
    ) -> Rows:
        """This rank's share of the images to train on, once through the network.

        Args:
            what: the encoder's output, or the head's.
            view: "center", the image resized without augmentation, gives values (n, width); "assign", its assign crops of this
                epoch, gives (n, assign, width).
            train_mode: batch norm and dropout as in training, instead of eval mode.
        """


T = TypeVar("T", Codes, PseudoLabels)


class Method(abc.ABC, Generic[T]):
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

    @classmethod
    def network(cls, config: Config[Any], encoder: nn.Module, n_features: int) -> ClusterModel:
        """What the method trains: by default encoder, projection head and prototypes."""
        m = config.model
        return ClusterModel(
            encoder,
            n_features,
            head=projection_head(n_features, m.head_width, m.embedding_width),
            prototypes=Prototypes(config.n_prototypes, m.embedding_width),
            n_assign=config.crops.n_crops[0],
            sobel=m.sobel,
        )

    @property
    def settles_at(self) -> int:
        """Step from which training should show signs of life: when the warm-up is over."""
        return round(self.config.optim.warmup_epochs * self.steps_per_epoch)

    @abc.abstractmethod
    def assign(self, out: Outputs, batch: Batch) -> T:
        """Targets for the batch, without gradient; every collective that the loss wants lives here."""

    @abc.abstractmethod
    def loss(self, out: Outputs, targets: T) -> Tensor:
        """How badly the network predicts the targets; pure and local, the mean over ranks is the loss of the joined batch."""

    def begin_epoch(self, epoch: int, extract: Extract) -> EpochPlan:
        """What the epoch trains on: by default every image once, in an order of the epoch's own."""
        order = self.trained_on[randomness.permutation(len(self.trained_on), self.config.run.seed, epoch)]
        return EpochPlan(order)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Who is trained, by which optimizer and schedule: by default all that learns, by the one of the settings."""
        o = self.config.optim
        learning = [p for p in self.model.parameters() if p.requires_grad]
        return [ParameterGroup("model", learning, o.optimizer, self.schedule(), o.momentum, o.weight_decay)]

    def schedule(self) -> Schedule:
        """The learning rate of the settings, step by step."""
        o = self.config.optim
        return cosine(
            lr=o.lr,
            final_lr=o.final_lr,
            total_steps=self.total_steps,
            warmup_steps=round(o.warmup_epochs * self.steps_per_epoch),
            warmup_lr=o.warmup_lr,
        )

    def before_update(self, step: int) -> None:
        """After the gradients are there, before they are used."""

    def after_update(self, out: Outputs, batch: Batch, step: int) -> None:
        """After the parameters have changed; collective."""

    def state_dict(self) -> dict[str, Tensor]:
        """What the method remembers beside the model, for the whole of all ranks; collective."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The method remembers what `state_dict` gave, on any number of ranks."""
