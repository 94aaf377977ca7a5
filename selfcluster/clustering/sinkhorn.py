"""Sinkhorn-Knopp: from scores to codes that use every prototype equally.

Among all codes that give each prototype the same mass and each sample the same mass, choose those that follow the scores best,
softened by an entropy term of weight epsilon. The optimum has the form

    codes[i, k] = softmax over k of (scores[i, k] / epsilon + u[k])

with one log-potential u[k] for each prototype, so only K numbers must be found. An iteration normalizes the prototypes (u from the codes'
sums over samples), then the samples (the softmax). SwAV stops after three iterations, far from the optimum, so there their number is part
of the method; over a data set they run to a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed


@torch.no_grad()
def sinkhorn(scores: Float[Tensor, "n k"], *, epsilon: float = 0.05, iterations: int = 3) -> Float[Tensor, "n k"]:
    """Compute codes that follow the scores while using every prototype equally.

    Args:
        scores: similarity of this rank's embeddings to the prototypes; cosine, in [-1, 1].
        epsilon: entropy weight, no unit, above 0; smaller is harder. The paper uses 0.05.
        iterations: prototype-then-sample normalizations, at least 1; the paper uses 3.
    Returns:
        codes of the shape of scores, float32 (float64 for float64 scores). Rows sum to 1; over all ranks, columns approach
        n_total / k as iterations grow.
    Raises:
        ValueError: epsilon is not positive, iterations is below 1, or (checked on CPU) scores contain a value that is not finite.
    Source: SwAV, arXiv 2006.09882, section 3.1. Deviations: computed in the log domain, which gives the same codes without
    overflow or underflow; the constants 1/K and 1/B are omitted, since the normalization of samples cancels them.
    """
    if scores.device.type == "cpu" and not torch.isfinite(scores).all():
        raise ValueError("scores contain a value that is not finite; look for NaN in the embeddings")
    balance = log_potentials(lambda: [scores], scores.shape[1], epsilon=epsilon, iterations=iterations)
    return torch.softmax(_scaled(scores, epsilon) + balance.log_potentials, dim=1)


class Balance(NamedTuple):
    """Result of `log_potentials`."""

    log_potentials: Float[Tensor, " k"]
    n_iterations: int
    mass_error: float
    """Largest relative deviation of a prototype's mass from its share n_total / k; infinite without a tolerance."""


@torch.no_grad()
def log_potentials(
    chunks: Callable[[], Iterable[Float[Tensor, "_ k"]]],
    k: int,
    *,
    epsilon: float,
    iterations: int,
    tolerance: float | None = None,
    device: torch.device | None = None,
) -> Balance:
    """Compute the K log-potentials with which the codes of any number of samples use every prototype equally.

    Args:
        chunks: function that returns this rank's scores in chunks, called once per iteration; chunks may be computed on demand, so that
            n x k scores are never in memory.
        k: prototypes.
        epsilon: entropy weight, above 0.
        iterations: number of iterations; with a tolerance, the largest number.
        tolerance: stop once the mass of every prototype is within this share of n_total / k.
        device: device of the scores, for a rank that has none.
    Raises:
        ValueError: epsilon is not positive, or iterations is below 1.
    Source: SwAV, arXiv 2006.09882, section 3.1; SeLa, arXiv 1911.05371, section 3.2.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}; the paper uses 0.05")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}; the paper uses 3")
    log_sums, n = _log_sums(chunks, None, k, epsilon, device)
    potentials = -log_sums
    if tolerance is None:
        for _ in range(iterations - 1):
            potentials = -_log_sums(chunks, potentials, k, epsilon, device)[0]
        return Balance(potentials, iterations, float("inf"))
    share = distributed.all_reduce_sum(torch.tensor(float(n), device=log_sums.device)) / k
    for done in count(1):
        log_sums, _ = _log_sums(chunks, potentials, k, epsilon, device)
        # The mass of a prototype in the codes so far is exp(potential) times the sum without it.
        error = float(((potentials + log_sums).exp() / share - 1).abs().max())
        if error <= tolerance or done == iterations:
            break
        potentials = -log_sums
    return Balance(potentials, done, error)


def _log_sums(
    chunks: Callable[[], Iterable[Tensor]], potentials: Tensor | None, k: int, epsilon: float, device: torch.device | None
) -> tuple[Float[Tensor, " k"], int]:
    """Return for each prototype the log of the sum of exp(score / epsilon) over the samples of all ranks, each sample scaled so that its
    code sums to 1 under these potentials; and this rank's number of samples. The ranks exchange K maxima and K sums."""
    here, n = None, 0
    for scores in chunks():
        scaled = _scaled(scores, epsilon)
        if potentials is not None:
            scaled = scaled - torch.logsumexp(scaled + potentials, dim=1, keepdim=True)
        log_sum = torch.logsumexp(scaled, dim=0)
        here, n = log_sum if here is None else torch.logaddexp(here, log_sum), n + len(scores)
    if here is None:
        here = torch.full((k,), -torch.inf, device=device)
    largest = distributed.all_reduce_max(here)
    log_sums = largest + distributed.all_reduce_sum((here - largest).exp()).log()
    return log_sums, n


def _scaled(scores: Tensor, epsilon: float) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
