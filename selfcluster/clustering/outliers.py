"""Outliers: images that belong to no cluster.

Cosines do not find them, since a network maps nearly everything near something it knows. Unnormalized features do better, in the metric of
the variation within clusters (docs/log.md has figures). An image's distance is that to the nearest cluster's mean. The limit is the 99 %
quantile over the clustered images, each measured by a model fitted to the other half, so that they count as new images do.

Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks", arXiv 1807.03888,
section 2.1. Deviations: clusters instead of classes; the covariance is shrunk by Ledoit and Wolf's rule, for few images; only the last
features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from selfcluster import randomness

_QUANTILE = 0.99
_FEWEST = 4
"""Rows that can be split into two halves; among fewer there are no outliers."""
_MOST = 50_000
"""Rows in the sample for the covariance."""
_ROWS = 8192
"""Rows compared with all means at a time."""
_HALVES = 0xFA
"""Key of the random draws."""


@dataclass(frozen=True)
class OutlierModel:
    """Distribution of the clustered images' features."""

    means: Float[Tensor, "m f"]
    """Mean of each cluster that is not empty, transformed by `metric`."""
    metric: Float[Tensor, "f f"]
    """Transformation after which the variation within clusters is the same in all directions."""
    limit: float
    """Distance beyond which an image is an outlier."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of` restores the model from."""
        return {"means": self.means, "metric": self.metric, "limit": torch.tensor(self.limit)}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> OutlierModel:
        """Return the model that `tensors` came from."""
        return cls(tensors["means"], tensors["metric"], float(tensors["limit"]))

    def distances(self, features: Float[Tensor, "n f"]) -> Float[Tensor, " n"]:
        """Return the distance of each row to the nearest mean."""
        return torch.cat([torch.cdist(part @ self.metric, self.means).min(dim=1).values for part in features.split(_ROWS)])


def fit_outlier_model(
    features: Float[Tensor, "n f"], assignments: Int64[Tensor, " n"], *, seed: int = 0
) -> tuple[OutlierModel, Float[Tensor, " n"]]:
    """Return the model, and each image's distance by a model fitted to the half that does not contain it.

    Args:
        features: the encoder's output, at least two rows; among fewer than four there are no outliers.
        assignments: their clusters.
        seed: random seed of the halves.
    """
    if len(features) < _FEWEST:
        return _fit(features, assignments, torch.inf), torch.zeros(len(features))
    order = torch.from_numpy(randomness.permutation(len(features), seed, _HALVES))
    halves, distances = (order[::2], order[1::2]), torch.empty(len(features))
    for fitted, measured in (halves, halves[::-1]):
        distances[measured] = _fit(features[fitted], assignments[fitted], torch.inf).distances(features[measured])
    limit = float(np.quantile(distances.numpy(), _QUANTILE))
    return _fit(features, assignments, limit), distances


def _fit(features: Float[Tensor, "n f"], assignments: Int64[Tensor, " n"], limit: float) -> OutlierModel:
    clusters, places = assignments.unique(return_inverse=True)
    sums = torch.zeros(len(clusters), features.shape[1]).index_add_(0, places, features)
    means = sums / torch.bincount(places)[:, None]
    sample = torch.linspace(0, len(features) - 1, min(len(features), _MOST)).long()
    covariance, _ = ledoit_wolf((features[sample] - means[places[sample]]).double().numpy(), assume_centered=True)
    values, directions = torch.linalg.eigh(torch.from_numpy(covariance))
    metric = (directions / values.clamp(min=max(1e-12, 1e-6 * float(values[-1]))).sqrt()).float()
    return OutlierModel(means @ metric, metric, limit)
