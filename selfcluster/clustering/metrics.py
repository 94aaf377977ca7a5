"""Metrics of clusters and features, with and without labels.

With labels, they measure how well clusters match classes. Without, they detect a collapse early. A healthy start and a constant embedding
have nearly the same loss (ln K + 0.38 at K = 3000), so the loss alone is a poor sign; the entropy of the codes, the length of the mean
embedding and the rank of the features are good ones.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn import metrics as sklearn_metrics
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor


def _paired(labels: ArrayLike, assignments: ArrayLike) -> tuple[NDArray, NDArray]:
    left, right = np.asarray(labels), np.asarray(assignments)
    if left.ndim != 1 or left.shape != right.shape or len(left) == 0:
        raise ValueError(f"labels and assignments must be two vectors of the same length above 0, got {left.shape} and {right.shape}")
    return left, right


def nmi(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Return the normalized mutual information, arithmetic mean, in [0, 1]. Grows with the number of clusters; report `ami` too."""
    return float(sklearn_metrics.normalized_mutual_info_score(*_paired(labels, assignments), average_method="arithmetic"))


def ami(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Return the adjusted mutual information, arithmetic mean; 1 for equal partitions, about 0 for unrelated ones."""
    return float(sklearn_metrics.adjusted_mutual_info_score(*_paired(labels, assignments), average_method="arithmetic"))


def ari(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Return the adjusted Rand index; 1 for equal partitions, about 0 for unrelated ones."""
    return float(sklearn_metrics.adjusted_rand_score(*_paired(labels, assignments)))


def matched_accuracy(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Return the share of images whose cluster is the one matched to their class.

    Each cluster is matched to at most one class and each class to at most one cluster, so that the share is largest (Hungarian
    algorithm). Unmatched clusters count as wrong.
    """
    counts = contingency_matrix(*_paired(labels, assignments))
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def purity(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Return the share of images in the most frequent class of their cluster. Grows with the number of clusters, to 1 for one image each.

    Source: Manning, Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, section 16.3.
    """
    counts = contingency_matrix(*_paired(labels, assignments))
    return float(counts.max(axis=0).sum() / counts.sum())


@torch.no_grad()
def prototypes_used(assignments: Tensor, n_prototypes: int) -> float:
    """Return the perplexity of the assignments: n_prototypes if all are used equally, 1 if one takes all."""
    share = torch.bincount(assignments.flatten(), minlength=n_prototypes).cpu().double()
    return float(torch.special.entr(share / share.sum()).sum().exp())


@torch.no_grad()
def rankme(features: Float[Tensor, "n f"] | Float[np.ndarray, "n f"]) -> float:
    """Return the effective rank of the features: exponential of the entropy of their singular values, between 1 and min(n, f).

    Source: RankMe, arXiv 2210.02885, equation 1.
    """
    singular = torch.linalg.svdvals(torch.as_tensor(features).float())
    share = singular / singular.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))
