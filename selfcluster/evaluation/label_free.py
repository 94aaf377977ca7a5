"""What can be said without any label: is the representation alive, does it form clusters, does it agree with itself?

- Rank: how many directions the features fill (RankMe). A collapsed encoder fills one.
- Silhouette: how much nearer an image lies to its own cluster than to the next one.
- Views: two crops of one image, each varied on its own, should be each other's nearest, and should have the same neighbors.
- Prototypes: how evenly, and how many of them, images are nearest to.

None of these replaces labels: a network that knows every image by its colors scores well on views and badly on classes. They
compare a run with itself as it was before, and with its floors.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.metrics import silhouette_samples
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering import metrics
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.neighbors import nearest_neighbors
from selfcluster.evaluation.standard_errors import mean_and_error

N_NEIGHBORS = 10
_CHUNK = 1024


def run(
    features: Float[Tensor, "n f"],
    views: tuple[Float[Tensor, "m f"], Float[Tensor, "m f"]],
    *,
    k: int,
    seed: int = 0,
) -> Iterator[tuple[str, float]]:
    """Yields `collapse/rankme`, `eval/silhouette`, `eval/view_top1` and `eval/neighbor_overlap`; the last three with standard errors.

    Args:
        features: of a sample of images, seen whole.
        views: features of two crops of each of these images, row by row; images that cannot be read may be missing.
        k: clusters for the silhouette.
        seed: of their starts.
    """
    yield "collapse/rankme", metrics.rankme(features)
    if len(features) > 2:
        yield from mean_and_error("eval/silhouette", silhouettes(features, min(k, len(features) - 1), seed=seed))
    if len(views[0]) > 1:
        yield from mean_and_error("eval/view_top1", views_found(*views))
        yield from mean_and_error("eval/neighbor_overlap", neighbor_overlap(*views, k=min(N_NEIGHBORS, len(views[0]) - 1)))


def silhouettes(features: Float[Tensor, "n f"], k: int, *, seed: int = 0) -> Float[np.ndarray, " n"]:
    """Of each image, in [-1, 1], in the clusters that k-means finds among features of unit norm; 0 where it finds only one.

    Source: Rousseeuw, "Silhouettes", 1987, with Euclidean distances.
    """
    points = normalize(features)
    assignments = kmeans(points, k, init="k-means++", n_init=5, iterations=300, tolerance=1e-4, seed=seed).assignments.numpy()
    if not 1 < len(np.unique(assignments)) < len(points):
        return np.zeros(len(points))
    return silhouette_samples(points.numpy(), assignments)


def views_found(first: Float[Tensor, "n f"], second: Float[Tensor, "n f"]) -> Float[np.ndarray, " n"]:
    """For each image: how often, of both ways, its view's nearest by cosine among the other views is its own; 0, 1/2 or 1.

    A tie counts as a miss, so that a constant representation finds nothing.

    Source: the instance discrimination of arXiv 1805.01978 and the pretext accuracy of MoCo, arXiv 1911.05722, taken as a measure.
    """
    first, second = normalize(first), normalize(second)
    found = np.zeros(len(first))
    for one, other in ((first, second), (second, first)):
        for start in range(0, len(one), _CHUNK):
            cosines = one[start : start + _CHUNK] @ other.T
            rows = torch.arange(len(cosines))
            own = cosines[rows, start + rows].clone()
            cosines[rows, start + rows] = -torch.inf
            found[start : start + len(rows)] += (own > cosines.max(dim=1).values).numpy() / 2
    return found


def neighbor_overlap(first: Float[Tensor, "n f"], second: Float[Tensor, "n f"], *, k: int = N_NEIGHBORS) -> Float[np.ndarray, " n"]:
    """For each image: the share of its k nearest other images that is the same among first views as among second views.

    By chance it is k / (n - 1).

    Source: the mutual nearest-neighbor metric of Huh et al., "The platonic representation hypothesis", arXiv 2405.07987, appendix A.
    Deviations: two views of one representation, where the paper compares two representations.
    """
    lists = [nearest_neighbors(views, k)[0] for views in (first, second)]
    shared = (lists[0][:, :, None] == lists[1][:, None, :]).any(dim=2)
    return shared.double().mean(dim=1).numpy()


def prototype_use(assignments: NDArray[np.int64] | Tensor, n_prototypes: int) -> Iterator[tuple[str, float]]:
    """Yields `collapse/prototypes_used`, the perplexity of their use, and `collapse/prototypes_share`, the share used at all.

    Args:
        assignments: nearest prototype of each image; of fewer images than some ten a prototype, both are low by chance.
        n_prototypes: how many there are.
    """
    assignments = torch.as_tensor(assignments)
    yield "collapse/prototypes_used", metrics.prototypes_used(assignments, n_prototypes)
    yield "collapse/prototypes_share", len(assignments.unique()) / n_prototypes
