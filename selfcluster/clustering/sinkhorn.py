"""Sinkhorn-Knopp: from scores to codes that use every prototype equally.

Among all codes that give each prototype the same mass and each sample the same mass, choose those that follow the scores best,
softened by an entropy of weight epsilon. The optimum has the form

    codes[i, k] = softmax over k of (scores[i, k] / epsilon + u[k])

with one log-potential u[k] for each prototype, so K numbers are all that has to be found. A round makes the prototypes fit
(u from the codes' sums over samples), then the samples (the softmax). SwAV stops after three rounds, far from the optimum, so
there the number of rounds belongs to the method and is no tolerance; over a data set the rounds go on until it fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

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
        iterations: prototype-then-sample normalizations, at least 1; the paper uses 3.
    Returns:
        codes of the shape of scores, float32 (float64 for float64 scores). Rows sum to 1; over all ranks, columns approach
        n_total / k as iterations grow.
    Raises:
        ValueError: epsilon is not positive, iterations is below 1, or (checked on CPU) scores hold a value that is not finite.
    Source: SwAV, arXiv 2006.09882, section 3.1. Deviations: computed in the log domain, which gives the same codes without
    overflow or underflow; the constants 1/K and 1/B are left out, since the sample step that ends each round cancels them.
    """
    if scores.device.type == "cpu" and not torch.isfinite(scores).all():
        raise ValueError("scores hold a value that is not finite; look for NaN in the embeddings")
    balance = log_potentials(lambda: [scores], scores.shape[1], epsilon=epsilon, iterations=iterations)
    return torch.softmax(_scaled(scores, epsilon) + balance.log_potentials, dim=1)


class Balance(NamedTuple):
    """What `log_potentials` found."""

    log_potentials: Float[Tensor, " k"]
    n_iterations: int
    mass_error: float
    """Largest difference of a prototype's mass from its share, over that share; infinite where no tolerance was asked for."""


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
    """The K numbers with which the codes of any number of samples use every prototype equally.

    Args:
        chunks: gives this rank's scores in parts, anew whenever it is called; they may be computed then and there, so that
            n x k is never held.
        k: prototypes.
        epsilon: entropy weight, above 0.
        iterations: rounds; at most, where there is a tolerance.
        tolerance: stop as soon as every prototype's mass is within this share of n_total / k.
        device: of the scores; only a rank without any needs to be told.
    Raises:
        ValueError: epsilon is not positive, or iterations is below 1.
    Source: SwAV, arXiv 2006.09882, section 3.1; SeLa, arXiv 1911.05371, section 3.2.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}; the paper uses 0.05")
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}; the paper uses 3")
    potentials: Tensor | None = None
    error = float("inf")
    for done in range(iterations if tolerance is None else iterations + 1):
        log_sums, n = _over_samples(chunks, potentials, k, epsilon, device)
        if tolerance is not None and potentials is not None:
            # The mass of the codes that entered this round is exp(potential) times their sum without it; the share is n / k.
            share = distributed.all_reduce_sum(torch.tensor(float(n), device=log_sums.device)) / k
            error = float(((potentials + log_sums).exp() / share - 1).abs().max())
            if error <= tolerance or done == iterations:
                return Balance(potentials, done, error)
        potentials = -log_sums
    assert potentials is not None
    return Balance(potentials, iterations, error)


def _over_samples(
    chunks: Callable[[], Iterable[Tensor]], potentials: Tensor | None, k: int, epsilon: float, device: torch.device | None
) -> tuple[Float[Tensor, " k"], int]:
    """For each prototype: log of the sum over the samples of all ranks of exp(score / epsilon), each sample scaled so that its
    code sums to 1 under these potentials; and how many samples this rank has. K maxima and K sums travel."""
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
