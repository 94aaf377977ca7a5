"""The interface of a method: `assign` gives every image a target, `loss` measures how well the network predicts it.

The model is what data parallelism wraps; the method is a plain class with its own state, complete after `__init__`. It never sees the
loop, the optimizers or the rank.
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
from selfcluster.errors import CollapseError
from selfcluster.models.heads import Center, Prototypes, projection_head
from selfcluster.models.model import ClusterModel, Outputs
from selfcluster.models.rows import Rows
from selfcluster.optim import ParameterGroup, Schedule, cosine
from selfcluster.settings.config import Config

_WARMUP_RATIO = 16
"""Learning rate over that of the warm-up's first step. Paper: 4.8 over 0.3."""


@dataclass(frozen=True)
class Codes:
    """Soft targets, computed online and without gradient."""

    codes: Float[Tensor, "assign b k"]
    """Soft assignments of the large crops; rows sum to 1."""

    def parts(self, n: int) -> list[Codes]:
        """Return the targets of the batch's n parts."""
        return [Codes(codes) for codes in self.codes.chunk(n, dim=1)]


@dataclass(frozen=True)
class PseudoLabels:
    """Hard targets from the last clustering of the data set, one per image for all its crops."""

    labels: list[Int64[Tensor, " b"]]
    """For each head: the cluster of each image; -1 means none yet."""
    n_valid: Float[Tensor, ""]
    """Images of the global batch that have a label, divided by the ranks."""

    def parts(self, n: int) -> list[PseudoLabels]:
        """Return the targets of the batch's n parts; the mean of the parts' losses is the loss of the batch."""
        of_parts = zip(*(of_head.chunk(n) for of_head in self.labels), strict=True)
        return [PseudoLabels(list(labels), self.n_valid / n) for labels in of_parts]


Targets = Codes | PseudoLabels
"""What the network is trained to predict."""


@runtime_checkable
class Extractor(Protocol):
    """The function that offline methods call between epochs; collective."""

    def __call__(
        self, what: Literal["features", "embeddings", "patches"], *, view: Literal["center", "assign"] = "center", train_mode: bool = False
    ) -> Rows:
        """Return the network's outputs for this rank's share of the images to train on.

        Args:
            what: output of the encoder, or of the head, or features of patches, which need no network (see `models.patches`).
            view: "center" is the image resized without augmentation, with values (n, width); "assign" are its assign crops of this epoch,
                with values (n, assign, width).
            train_mode: batch norm and dropout as in training, instead of eval mode.
        """


OnCollapse = Literal["stop", "warn"]


def stop_or_warn(message: str, on_collapse: OnCollapse) -> str:
    """Return the message, to be logged as a warning.

    Raises:
        CollapseError: training is to stop at a collapse.
    """
    if on_collapse == "stop":
        raise CollapseError(f"{message}; --on-collapse warn continues regardless")
    return message


T = TypeVar("T", Codes, PseudoLabels)


class Method(abc.ABC, Generic[T]):
    """An algorithm that alternates assigning and predicting.

    Args:
        config: all settings.
        model: the bare model, on its device.
        trained_on: indices of the images to train on.
        steps_per_epoch, total_steps: length of the run.
    """

    def __init__(
        self, config: Config[Any], model: ClusterModel, trained_on: NDArray[np.int64], *, steps_per_epoch: int, total_steps: int
    ) -> None:
        self.config, self.model, self.trained_on = config, model, trained_on
        self.steps_per_epoch, self.total_steps = steps_per_epoch, total_steps

    @classmethod
    def network(cls, config: Config[Any], encoder: nn.Module, n_features: int) -> ClusterModel:
        """Build the network: by default encoder, projection head and prototypes; without a head, embeddings are the centered features."""
        m = config.model
        width = m.embedding_width or n_features
        return ClusterModel(
            encoder,
            n_features,
            head=projection_head(n_features, m.head_width, width) if m.embedding_width else Center(n_features),
            prototypes=Prototypes(config.n_prototypes, width),
            n_assign=config.crops.n_crops[0],
            sobel=m.sobel,
            mean=m.pixel_mean,
            deviation=m.pixel_deviation,
        )

    @property
    def settles_at(self) -> int:
        """First step at which a collapse counts: the end of the warm-up."""
        return round(self.config.optim.warmup_epochs * self.steps_per_epoch)

    @abc.abstractmethod
    def assign(self, out: Outputs, batch: Batch) -> T:
        """Return the targets of the batch, without gradient; every collective that the loss needs happens here."""

    @abc.abstractmethod
    def loss(self, out: Outputs, targets: T) -> Tensor:
        """Return how badly the network predicts the targets; local, the mean over ranks is the loss of the joined batch."""

    def begin_epoch(self, epoch: int, extract: Extractor) -> EpochPlan:
        """Return what the epoch trains on: by default every image once, shuffled anew each epoch."""
        order = self.trained_on[randomness.permutation(len(self.trained_on), self.config.run.seed, epoch)]
        return EpochPlan(order)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return what is trained, by which optimizer and schedule: by default all trainable parameters, as the settings say."""
        o, parts = self.config.optim, {"encoder": self.model.encoder, "head": self.model.head, "prototypes": self.model.prototypes}
        groups = []
        for name, part in parts.items():
            if learning := [p for p in part.parameters() if p.requires_grad]:
                schedule = self.schedule(o.encoder_lr_ratio if name == "encoder" else 1.0)
                groups.append(ParameterGroup(name, learning, o.optimizer, schedule, o.momentum, o.weight_decay))
        return groups

    def schedule(self, ratio: float = 1.0) -> Schedule:
        """Return the learning rate of the settings for each step, times a ratio."""
        o = self.config.optim
        return cosine(
            lr=ratio * o.lr,
            final_lr=ratio * o.final_lr,
            total_steps=self.total_steps,
            warmup_steps=round(o.warmup_epochs * self.steps_per_epoch) if not o.extended_at else 0,
            warmup_lr=ratio * o.lr / _WARMUP_RATIO,
            first_step=o.extended_at,
        )

    def before_update(self, step: int) -> None:
        """Run between the backward pass and the update."""

    def after_update(self, out: Outputs, batch: Batch, step: int) -> None:
        """Run after the update; collective."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the method's state, joined over all ranks, apart from the model; collective."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state from `state_dict`, saved by any number of ranks."""
