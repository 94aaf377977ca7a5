"""Outliers: images unlike all that were clustered.

Scores see different kinds of them (docs/log.md has figures): the distance to the nearest image, by the cosine of features that are not
centered, sees other domains and noise; the share of centered features outside their leading components sees other objects. Networks that were
trained on the images alone map nearly everything near something they know; for them, the distance to the nearest cluster's mean counts too, in
the metric of the variation within clusters. Each score is scaled by its median and 99 % quantile over the clustered images, and the largest
one counts. All is measured on a tenth of the images by a model fitted to the others, so that they count as new images do.

Sources: Sun et al., "Out-of-distribution detection with deep nearest neighbors", arXiv 2204.06507; Wang et al., "ViM: out-of-distribution with
virtual-logit matching", arXiv 2203.10807; Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks", arXiv 1807.03888, section 2.1. Deviations: a sample of the images; the share outside the components, not its length; clusters instead
of classes, and a covariance that is shrunk by Ledoit and Wolf's rule.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness

_QUANTILE = 0.99
_FEWEST, _PARTS = 4, 10
"""Rows among which there can be outliers, and the parts that each are measured by a model of the others."""
_MOST = 5000
"""Images that others are compared with, and that the components are of."""
_N_COMPONENTS, _ROWS_PER_COMPONENT = 256, 4
_ROWS = 4096
"""Rows compared with all images at a time."""
_SPLIT = 0xFA
"""Key of the random draws."""


@dataclass(frozen=True)
class OutlierModel:
    """What the clustered images' features are like."""

    known: Float[Tensor, "m f"]
    """Features of a sample of the images, of unit norm, in half precision."""
    center: Float[Tensor, " f"]
    components: Float[Tensor, "c f"]
    """Leading principal directions of the centered features."""
    means: Float[Tensor, "k f"]
    """Mean of each cluster, transformed by `metric`; none if clusters do not count."""
    metric: Float[Tensor, "g f"]
    """Transposed transformation after which the variation within clusters is the same in all directions."""
    usual: Float[Tensor, " s"]
    """Median of each score."""
    high: Float[Tensor, " s"]
    """Their 99 % quantile."""
    limit: Float[Tensor, ""]
    """Score beyond which an image is an outlier, as 1 % of the images are."""

    def tensors(self) -> dict[str, Tensor]:
        """Return what `of` restores the model from."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> OutlierModel:
        """Return the model that `tensors` came from."""
        return cls(**tensors)

    def are_outliers(self, features: Float[Tensor, "n f"]) -> Tensor:
        """Return whether each row is an outlier."""
        return self._scaled(self._scores(features)) > self.limit

    def _scores(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n s"]:
        """Return 1 - cosine with the nearest image, the share of the centered row outside the components, and the distance to a cluster."""
        known, scores = self.known.float(), []
        for rows in features.split(_ROWS):
            centered = rows - self.center
            outside = centered - (centered @ self.components.T) @ self.components
            share = outside.norm(dim=1) / centered.norm(dim=1).clamp(min=1e-12)
            of_rows = [1 - (normalize(rows) @ known.T).amax(dim=1), share]
            if len(self.means):
                of_rows.append(torch.cdist(rows @ self.metric.T, self.means).amin(dim=1))
            scores.append(torch.stack(of_rows, dim=1))
        return torch.cat(scores)

    def _scaled(self, scores: Float[Tensor, "n s"]) -> Float[Tensor, " n"]:
        """Return the largest of the scores, where 0 is usual and 1 is high."""
        return ((scores - self.usual) / (self.high - self.usual).clamp(min=1e-6)).amax(dim=1)


def fit_outlier_model(
    features: Float[Tensor, "n f"], clusters: Int64[Tensor, " n"] | None = None, *, seed: int = 0
) -> tuple[OutlierModel, Tensor]:
    """Return the model, and whether each image is an outlier by a model fitted without it.

    Args:
        features: the encoder's output, at least two rows; among fewer than four there are no outliers.
        clusters: of the images, for a network that was trained on them alone; None for one that was trained on many others.
        seed: random seed of the parts and of the sample.
    """
    whole = _fitted(features, clusters, torch.arange(len(features)), seed)
    if len(features) < _FEWEST:
        return whole, torch.zeros(len(features), dtype=torch.bool)
    part = torch.from_numpy(randomness.permutation(len(features), seed, _SPLIT)) % min(_PARTS, len(features))
    scores = torch.empty(len(features), len(whole.usual))
    for number in part.unique():
        others = part != number
        model = _fitted(features, clusters, others.nonzero()[:, 0], seed)
        scores[~others] = model._scores(features[~others])
    scaled = OutlierModel(**{**whole.tensors(), "usual": scores.median(dim=0).values, "high": _high(scores)})
    combined = scaled._scaled(scores)
    limit = _high(combined)
    return OutlierModel(**{**scaled.tensors(), "limit": limit}), combined > limit


def _high(scores: Float[Tensor, "n ..."]) -> Float[Tensor, "*_"]:
    """Return the 99 % quantile; that of torch takes 16 million numbers at most."""
    return torch.from_numpy(np.asarray(np.quantile(scores.numpy(), _QUANTILE, axis=0))).float()


def _fitted(features: Float[Tensor, "n f"], clusters: Int64[Tensor, " n"] | None, rows: Int64[Tensor, " m"], seed: int) -> OutlierModel:
    """Return a model of these rows, whose scores are not yet scaled."""
    chosen = rows[torch.from_numpy(randomness.permutation(len(rows), seed, _SPLIT, 1)[:_MOST])]
    sample = features[chosen]
    center = sample.mean(dim=0)
    centered = (sample - center).numpy()
    n_components = max(1, min(_N_COMPONENTS, len(sample) // _ROWS_PER_COMPONENT, sample.shape[1] - 1))
    width = centered.shape[1]
    _, directions = eigh(centered.T @ centered, subset_by_index=[width - n_components, width - 1])
    components = torch.from_numpy(directions.T.copy())
    if clusters is None:
        means, metric = sample[:0], sample[:0]
    else:
        means, metric = _within_clusters(sample, clusters[chosen])
    n_scores = 3 if len(means) else 2
    known, limit = normalize(sample).half(), torch.tensor(torch.inf)
    return OutlierModel(known, center, components, means, metric, torch.zeros(n_scores), torch.ones(n_scores), limit)


def _within_clusters(features: Float[Tensor, "n f"], clusters: Int64[Tensor, " n"]) -> tuple[Float[Tensor, "k f"], Float[Tensor, "f f"]]:
    """Return the means of the clusters and the transposed metric; see `OutlierModel`."""
    _, places = clusters.unique(return_inverse=True)
    sizes = torch.bincount(places)
    means = torch.zeros(len(sizes), features.shape[1]).index_add_(0, places, features) / sizes[:, None]
    covariance, _ = ledoit_wolf((features - means[places]).double().numpy(), assume_centered=True)
    values, directions = torch.linalg.eigh(torch.from_numpy(covariance))
    metric = (directions / values.clamp(min=max(1e-12, 1e-6 * float(values[-1]))).sqrt()).float()
    return means @ metric, metric.T.contiguous()
