"""The one judge of collapse: training stops by these rules, and the page reports by them.

The loss alone says little: a healthy start and a constant embedding are both a little above ln K. A collapse shows in uniform codes while
all embeddings agree, or in features of one direction; not learning shows in a loss that stays at ln K.
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

_FLAT_RANK = 2.0
"""Effective rank below which the features have one direction."""

_FEW_PROTOTYPES = 0.01
"""Share of the prototypes below which nearly all images share one; of few prototypes, at least two must be in use."""

_ONE_CLUSTER = 0.9
"""Share of the images above which one cluster has nearly all of them."""

_NEAR_LN_K = 0.01
"""Share of ln K within which a loss is at ln K."""

_FALLING = 0.01
"""Nats by which a falling loss is lower in the later half of the steps."""

Problem = Literal["same embedding", "one direction", "few prototypes", "one cluster", "uniform codes", "sharp codes", "stuck loss"]

COLLAPSED: frozenset[Problem] = frozenset(["same embedding", "one direction", "few prototypes", "one cluster"])
"""Problems of a collapsed network; one with any of the others is not learning."""


@dataclass(frozen=True)
class Health:
    """Health metrics of training, averaged over steps; None where the method or the run has none."""

    loss: float
    loss_falls: bool
    ln_k: float
    n_prototypes: int
    """K of the first head."""
    code_entropy: float | None = None
    """Mean entropy of soft codes, as a share of ln K."""
    mean_embedding: float | None = None
    """Squared length of the mean embedding."""
    rank: float | None = None
    """Effective rank of the features."""
    prototypes_used: float | None = None
    """Perplexity of the nearest prototype."""
    largest_cluster: float | None = None
    """Share of the images in the largest cluster of the last assignment."""

    @property
    def has_uniform_codes(self) -> bool:
        """Whether every code is nearly uniform."""
        return self.code_entropy is not None and self.code_entropy > _UNIFORM_CODES

    @property
    def has_left_ln_k(self) -> bool:
        """Whether the loss is below that of a network that tells no images apart."""
        return self.loss <= (1 - _NEAR_LN_K) * self.ln_k


def problems(health: Health) -> list[Problem]:
    """Return what makes training stop, collapses first; empty for a healthy run."""
    h = health
    found: list[Problem] = []
    few = max(min(2, 0.6 * h.n_prototypes), _FEW_PROTOTYPES * h.n_prototypes)
    if h.has_uniform_codes and h.mean_embedding is not None and h.mean_embedding > _SAME_EMBEDDING:
        found.append("same embedding")
    if h.largest_cluster is not None and h.largest_cluster > _ONE_CLUSTER and h.n_prototypes > 2:
        found.append("one cluster")
    if h.loss_falls:
        return found
    if h.rank is not None and h.rank < _FLAT_RANK:
        found.append("one direction")
    if h.prototypes_used is not None and h.prototypes_used < few:
        found.append("few prototypes")
    if h.code_entropy is None:
        if not h.has_left_ln_k:
            found.append("stuck loss")
    elif h.has_uniform_codes:
        if abs(h.loss - h.ln_k) < _NEAR_LN_K * h.ln_k and "same embedding" not in found:
            found.append("uniform codes")
    elif h.code_entropy < _SHARP_CODES and h.loss > h.ln_k:
        found.append("sharp codes")
    return found


def ln_k(n_prototypes: Sequence[int]) -> float:
    """Return the loss of a network that tells no images apart: ln K, the mean over the heads."""
    return sum(map(math.log, n_prototypes)) / len(n_prototypes)


def falls(losses: Sequence[float]) -> bool:
    """Return whether the later half of the losses is lower; a single loss counts as falling, since nothing speaks against it."""
    half = len(losses) // 2
    return half == 0 or fmean(losses[half:]) < fmean(losses[:half]) - _FALLING
