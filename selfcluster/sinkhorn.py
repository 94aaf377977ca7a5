"""Sinkhorn-Knopp: from scores to codes that use every prototype equally.

Among all codes that give each prototype the same mass and each sample the same mass, choose those that follow the scores best,
softened by an entropy of weight epsilon. The optimum has the form diag(u) exp(scores / epsilon) diag(v); the iteration finds
u and v by making prototypes and samples fit in turn. SwAV stops after three rounds, far from the optimum, so the number of
rounds belongs to the method and is no tolerance.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed


@torch.no_grad()
def sinkhorn(scores: Float[Tensor, "n k"], *, epsilon: float = 0.05, iterations: int = 3) -> Float[Tensor, "n k"]:
    """Codes that follow the scores while using every prototype equally.

    Args:
        scores: similarity of this rank's embeddings to the prototypes; cosine, in [-1, 1].
        epsilon: entropy weight, no unit, above 0; smaller is harder. The paper uses 0.05.
        iterations: prototype-then-sample normalisations, at least 1; the paper uses 3.
    Returns:
        codes of the shape of scores, float32 (float64 for float64 scores). Rows sum to 1; over all ranks, columns approach
        n_total / k as iterations grow.
    Raises:
        ValueError: epsilon is not positive, iterations is below 1, or (checked on CPU) scores hold a value that is not finite.
    Source: SwAV, arXiv 2006.09882, section 3.1. Deviations: computed in the log domain, which gives the same codes without
    overflow or underflow; the constants 1/K and 1/B are left out, since the sample step that ends each round cancels them.
    """
    _check(scores, epsilon, iterations)
    log_codes = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for _ in range(iterations):
        log_codes = log_codes - _logsumexp_over_samples(log_codes)
        log_codes = log_codes - torch.logsumexp(log_codes, dim=1, keepdim=True)
    return log_codes.exp()


def _logsumexp_over_samples(x: Float[Tensor, "n k"]) -> Float[Tensor, "1 k"]:
    """Over the samples of all ranks: K maxima and K sums travel."""
    lowest = x.new_full((1, x.shape[1]), -torch.inf)
    largest = distributed.all_reduce_max(torch.cat([lowest, x]).amax(dim=0, keepdim=True))
    return largest + distributed.all_reduce_sum((x - largest).exp().sum(dim=0, keepdim=True)).log()


def _check(scores: Tensor, epsilon: float, iterations: int) -> None:
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}; the paper uses 0.05")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}; the paper uses 3")
    if scores.device.type == "cpu" and not torch.isfinite(scores).all():
        raise ValueError("scores hold a value that is not finite; look for NaN in the embeddings")
