"""The two losses: predict another crop's code, or predict a pseudo-label.

Both are cross-entropies of softmax(scores / temperature) in the precision of the scores, float32 from the model. Both are local: counts over
ranks are taken before, in the method's `assign`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def swapped_loss(scores: Float[Tensor, "crops b k"], codes: Float[Tensor, "assign b k"], *, temperature: float = 0.1) -> Float[Tensor, ""]:
    """Return the cross-entropy between the code of each assign crop and the prediction from every other crop of the same image.

        loss = mean over assign crops a, crops v != a and images b of
               -sum_k codes[a, b, k] * log_softmax(scores[v, b] / temperature)[k]

    Args:
        scores: cosines of embeddings with prototypes; the first crops are the assign crops.
        codes: soft assignments of the assign crops, rows sum to 1; no gradient flows through them.
        temperature: softmax temperature, above 0; the paper uses 0.1.
    Returns:
        a scalar; ln k if all scores are equal.
    Raises:
        ValueError: fewer than two crops, no codes, more codes than crops, or a temperature that is not positive.
    Source: SwAV, arXiv 2006.09882, equations 1, 2 and 6.
    """
    n_crops, n_assign = len(scores), len(codes)
    if n_crops < 2 or not 1 <= n_assign <= n_crops:
        raise ValueError(
            f"swapped prediction needs at least two crops, and codes for one to all of them, got {n_crops} crops and {n_assign} codes"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}; the paper uses 0.1")
    log_predictions = torch.log_softmax(scores / temperature, dim=-1)
    of_other_crops = log_predictions.sum(dim=0) - log_predictions[:n_assign]
    return -(codes.detach() * of_other_crops).sum(dim=-1).mean() / (n_crops - 1)


def pseudo_label_loss(
    scores: Float[Tensor, "*crops b k"], labels: Int64[Tensor, " b"], *, temperature: float = 1.0, n_valid: float | Tensor | None = None
) -> Float[Tensor, ""]:
    """Return the cross-entropy of every crop with the pseudo-label of its image.

        loss = sum over crops and images with a label of -log_softmax(scores / temperature)[label] / (crops * n_valid)

    Args:
        scores: (b, k), or (crops, b, k) with one label per image for all crops.
        labels: cluster of each image; -1 means none yet and is ignored.
        temperature: softmax temperature, above 0; DeepCluster uses 1, DeepCluster-v2 0.1.
        n_valid: number of images with a label; None counts those of this batch. With several ranks: the count over all ranks divided by
            the number of ranks, so that the mean over ranks is the loss of the joined batch.
    Returns:
        a scalar; 0 if no image has a label.
    Raises:
        ValueError: a temperature that is not positive.
    Source: DeepCluster, arXiv 1807.05520, equation 2.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    n_classes = scores.shape[-1]
    n_crops = math.prod(scores.shape[:-2])
    every_label = labels.expand(scores.shape[:-1]).reshape(-1)
    total = torch.nn.functional.cross_entropy(scores.reshape(-1, n_classes) / temperature, every_label, ignore_index=-1, reduction="sum")
    n_labeled = (labels >= 0).sum() if n_valid is None else torch.as_tensor(n_valid, device=scores.device)
    # The count divided by the ranks may be below 1; only 0 must not be divided by.
    return total / (n_crops * torch.where(n_labeled > 0, n_labeled, 1))
