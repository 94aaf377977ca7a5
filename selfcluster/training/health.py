"""Rules for collapse and for training that learns nothing, shared by training, which stops by them, and the report.

The loss alone says little: a healthy start and a constant embedding are both a little above ln K. A collapse shows in uniform codes while
all embeddings agree; learning nothing shows in a loss that stays at ln K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

WINDOW_STEPS = 200
"""Steps that the metrics are averaged over."""

_UNIFORM_CODES = 0.98
"""Share of ln K above which the codes are uniform."""

_SHARP_CODES = 0.5
"""Share of ln K below which the codes are sharp."""

_SAME_EMBEDDING = 0.95
"""Squared length of the mean embedding above which all images have the same embedding."""

_NEAR_LN_K = 0.01
"""Share of ln K within which a loss is at ln K."""

_FALLING = 0.01
"""Nats by which a falling loss is lower in the second half of the steps."""

Problem = Literal["same embedding", "uniform codes", "sharp codes", "stuck loss"]
"""The first is a collapse; with any of the others, training learns nothing."""


@dataclass(frozen=True)
class Health:
    """Health metrics of training, as means over recent steps."""

    loss: float
    loss_falls: bool
    ln_k: float
    code_entropy: float | None
    """Mean entropy of soft codes, as a share of ln K; None for pseudo-labels, whose entropy says nothing."""
    mean_embedding: float | None
    """Squared length of the mean embedding; None if it was not recorded."""

    @property
    def has_uniform_codes(self) -> bool:
        """Whether every code is nearly uniform."""
        return self.code_entropy is not None and self.code_entropy > _UNIFORM_CODES

    @property
    def has_left_ln_k(self) -> bool:
        """Whether the loss is below that of a network that tells no images apart."""
        return self.loss <= (1 - _NEAR_LN_K) * self.ln_k


def problem_of(health: Health) -> Problem | None:
    """Return the problem that stops training; None for a healthy run."""
    h = health
    if h.has_uniform_codes and h.mean_embedding is not None and h.mean_embedding > _SAME_EMBEDDING:
        return "same embedding"
    if h.loss_falls:
        return None
    if h.code_entropy is None:
        return None if h.has_left_ln_k else "stuck loss"
    if h.has_uniform_codes:
        return "uniform codes" if abs(h.loss - h.ln_k) < _NEAR_LN_K * h.ln_k else None
    return "sharp codes" if h.code_entropy < _SHARP_CODES and h.loss > h.ln_k else None


def ln_k(n_prototypes: Sequence[int]) -> float:
    """Return the loss of a network that tells no images apart: ln K, the mean over the heads."""
    return sum(map(math.log, n_prototypes)) / len(n_prototypes)


def falls(losses: Sequence[float]) -> bool:
    """Return whether the second half of the losses is lower; True for a single loss."""
    half = len(losses) // 2
    return half == 0 or fmean(losses[half:]) < fmean(losses[:half]) - _FALLING
