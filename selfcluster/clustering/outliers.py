"""Images that belong to no cluster: how far is too far?

Cosines do not tell: a network puts nearly everything near something it knows. Features as they are, with their lengths, in the metric of
how images vary within clusters, tell more (docs/log.md has figures). The distance of an image is that to the nearest cluster's mean; too
far is beyond what 99 in 100 of the clustered images keep, each measured by a fit of the other half, as new images are.

Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks", arXiv 1807.03888,
section 2.1. Deviations: clusters in place of classes; the covariance is shrunk by Ledoit and Wolf's rule, for few images; the last features
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from selfcluster import randomness

_KEPT = 0.99
_FEW = 4
"""Rows below which nothing is far, for want of two halves."""
_MOST = 50_000
"""Rows that the covariance is taken of."""
_ROWS = 8192


@dataclass(frozen=True)
class OutlierModel:
    """What the clustered images are like."""

    means: Float[Tensor, "m f"]
    """Of clusters that hold images, turned and stretched by `metric`."""
    metric: Float[Tensor, "f f"]
    """Makes the variation within clusters the same in all directions."""
    limit: float
    """Distance beyond which an image is far from all clusters."""

    def distances(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """To the nearest mean."""
        return torch.cat([torch.cdist(part @ self.metric, self.means).min(dim=1).values for part in features.split(_ROWS)])


def fit_outlier_model(
    features: Float[Tensor, "n f"], assignments: Int64[Tensor, " n"], *, seed: int = 0
) -> tuple[OutlierModel, Float[Tensor, " n"]]:
    """What these images are like, and the distance of each by the fit of the half that it is not in.

    Args:
        features: as the encoder gives them, at least two rows; below four nothing is far.
        assignments: their clusters.
        seed: of the halves.
    """
    if len(features) < _FEW:
        return _fit(features, assignments, torch.inf), torch.zeros(len(features))
    order = torch.from_numpy(randomness.permutation(len(features), seed, _HALVES))
    halves, distances = (order[::2], order[1::2]), torch.empty(len(features))
    for fitted, judged in (halves, halves[::-1]):
        distances[judged] = _fit(features[fitted], assignments[fitted], torch.inf).distances(features[judged])
    limit = float(np.quantile(distances.numpy(), _KEPT))
    return _fit(features, assignments, limit), distances


_HALVES = 0xFA
"""Keeps the halves apart from every other use of the seed."""


def _fit(features: Float[Tensor, "n f"], assignments: Int64[Tensor, " n"], limit: float) -> OutlierModel:
    numbers, places = assignments.unique(return_inverse=True)
    sums = torch.zeros(len(numbers), features.shape[1]).index_add_(0, places, features)
    means = sums / torch.bincount(places)[:, None]
    some = torch.linspace(0, len(features) - 1, min(len(features), _MOST)).long()
    covariance, _ = ledoit_wolf((features[some] - means[places[some]]).double().numpy(), assume_centered=True)
    values, directions = torch.linalg.eigh(torch.from_numpy(covariance))
    metric = (directions / values.clamp(min=max(1e-12, 1e-6 * float(values[-1]))).sqrt()).float()
    return OutlierModel(means @ metric, metric, limit)
