"""Figures about clusters and features, with and without labels.

With labels: how well an assignment matches classes. Without: how a collapse shows itself early. A healthy start and a constant
embedding have nearly the same loss (ln K + 0.38 at K = 3000), so the loss alone is a poor sign; the entropy of the codes, the
length of the mean embedding and the rank of the features are good ones.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn import metrics as sklearn_metrics
from torch import Tensor


def _paired(labels: ArrayLike, assignments: ArrayLike) -> tuple[NDArray, NDArray]:
    left, right = np.asarray(labels), np.asarray(assignments)
    if left.ndim != 1 or left.shape != right.shape or len(left) == 0:
        raise ValueError(f"labels and assignments must be two vectors of one length above 0, got {left.shape} and {right.shape}")
    return left, right


def nmi(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Normalized mutual information, arithmetic mean, in [0, 1]. Grows with the number of clusters: report `ami` beside it."""
    return float(sklearn_metrics.normalized_mutual_info_score(*_paired(labels, assignments), average_method="arithmetic"))


def ami(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Mutual information above chance, arithmetic mean; 1 for equal partitions, about 0 for unrelated ones."""
    return float(sklearn_metrics.adjusted_mutual_info_score(*_paired(labels, assignments), average_method="arithmetic"))


def ari(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Adjusted Rand index; 1 for equal partitions, about 0 for unrelated ones."""
    return float(sklearn_metrics.adjusted_rand_score(*_paired(labels, assignments)))


def matched_accuracy(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Share of images whose cluster is the one matched to their class.

    Each cluster is matched to at most one class and each class to at most one cluster, so that the share is largest (Hungarian
    algorithm). Surplus clusters count as wrong.
    """
    counts = _counts(labels, assignments)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def purity(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Share of images whose class is the commonest of their cluster. Grows with the number of clusters: 1 where each image has its own.

    Source: Manning, Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, section 16.3.
    """
    counts = _counts(labels, assignments)
    return float(counts.max(axis=0).sum() / counts.sum())


def _counts(labels: ArrayLike, assignments: ArrayLike) -> NDArray[np.int64]:
    """Images of each class (row) in each cluster (column)."""
    classes, clusters = (np.unique(x, return_inverse=True)[1] for x in _paired(labels, assignments))
    counts = np.zeros((classes.max() + 1, clusters.max() + 1), dtype=np.int64)
    np.add.at(counts, (classes, clusters), 1)
    return counts


@torch.no_grad()
def code_entropy(codes: Float[Tensor, "*batch k"] | Float[np.ndarray, "*batch k"]) -> float:
    """Mean entropy of the codes in nats: ln k when every code is uniform, 0 when every code is hard."""
    return float(torch.special.entr(torch.as_tensor(codes).float()).sum(dim=-1).mean())


@torch.no_grad()
def prototypes_used(assignments: Tensor, n_prototypes: int) -> float:
    """Perplexity of how often each prototype is nearest: n_prototypes when all are alike, 1 when one takes all."""
    share = torch.bincount(assignments.flatten(), minlength=n_prototypes).double()
    return float(torch.special.entr(share / share.sum()).sum().exp())


@torch.no_grad()
def rankme(features: Float[Tensor, "n f"] | Float[np.ndarray, "n f"]) -> float:
    """Effective rank of the features: exp of the entropy of their singular values, between 1 and min(n, f).

    Source: RankMe, arXiv 2210.02885, equation 1.
    """
    singular = torch.linalg.svdvals(torch.as_tensor(features).float())
    share = singular / singular.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))
