"""Centroids that k-means starts from: random rows, k-means++, or given ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfcluster import distributed, randomness
from selfcluster.clustering.assignment import Scorer
from selfcluster.clustering.blocks import PointSource

_RANDOM, _PLUS_PLUS = 0x5A, 0x5B
"""Keys of the random draws."""


def initial_centroids(source: PointSource, k: int, init: Tensor | str, seed: int, chunk_bytes: int | None) -> Tensor:
    """Return k centroids, without the shift.

    Args:
        init: "random", "k-means++", or the centroids themselves, (k, d).
    Raises:
        ValueError: another `init`, or centroids that are not (k, d) or not finite.
    """
    if isinstance(init, Tensor):
        if init.shape != (k, source.d):
            raise ValueError(f"init has shape {tuple(init.shape)}, but k and the points require ({k}, {source.d})")
        if not torch.isfinite(init).all():
            raise ValueError("init contains a value that is not finite")
        return init
    if init == "random":
        drawn = np.random.default_rng(randomness.seed_from(seed, _RANDOM)).choice(source.n_total, size=k, replace=False)
        return source.of_all_ranks(drawn)
    if init == "k-means++":
        return _plus_plus(source, k, seed, chunk_bytes)
    raise ValueError(f"init {init!r} must be 'random', 'k-means++' or a tensor of shape ({k}, {source.d})")


def _plus_plus(source: PointSource, k: int, seed: int, chunk_bytes: int | None) -> Tensor:
    """Draw rows with probability proportional to the squared distance from those drawn before, an eighth more at a time.

    Source: Arthur and Vassilvitskii, "k-means++", 2007; batches as in k-means||, Bahmani et al., 2012.
    """
    drawn = np.array([int(randomness.uniform(seed, _PLUS_PLUS, n=1)[0] * source.n_total)])
    chosen = source.of_all_ranks(drawn)
    newest, squared = chosen, torch.full((source.n,), torch.inf, dtype=source.dtype, device=source.device)
    while len(drawn) < k:
        scorer = Scorer(source.shifted(newest), source.spherical, chunk_bytes)
        for where, block in source.blocks():
            for part, nearest, scores in scorer(block):
                least = scores.gather(1, nearest[:, None])[:, 0]
                distance = 1 + least if source.spherical else block[part].square().sum(dim=1) + 2 * least
                squared[where][part] = torch.minimum(squared[where][part], distance.clamp(min=0))
        squared[torch.from_numpy(drawn[(drawn >= source.first) & (drawn < source.first + source.n)] - source.first)] = 0
        more = min(k - len(drawn), max(1, len(drawn) // 8))
        fresh = _draw(source, squared, randomness.uniform(seed, _PLUS_PLUS, len(drawn), n=more))
        fresh = np.setdiff1d(fresh, drawn)
        if len(fresh) == 0:  # fewer distinct points than k: take any others
            rest = np.setdiff1d(np.arange(min(source.n_total, 2 * k)), drawn)
            fresh = rest[: k - len(drawn)]
        newest = source.of_all_ranks(fresh)
        drawn, chosen = np.concatenate([drawn, fresh]), torch.cat([chosen, newest])
    return chosen


def _draw(source: PointSource, weights: Tensor, uniform: np.ndarray) -> np.ndarray:
    """Draw rows of all ranks with probability proportional to their weights; a row of weight 0 is never drawn."""
    running = weights.to(source.sum_dtype).cumsum(dim=0).cpu()
    mine = torch.zeros(distributed.n_ranks(), dtype=source.sum_dtype, device=source.device)
    mine[distributed.rank()] = running[-1] if len(running) else 0.0
    ends = distributed.all_reduce_sum(mine).cumsum(dim=0).cpu()
    if not ends[-1] > 0:
        return np.empty(0, dtype=np.int64)
    wanted = torch.from_numpy(uniform).to(running.dtype) * ends[-1]
    before = float(ends[distributed.rank() - 1]) if distributed.rank() else 0.0
    here = (wanted >= before) & (wanted < ends[distributed.rank()])
    found = torch.zeros(len(wanted), dtype=torch.int64)
    found[here] = source.first + torch.searchsorted(running, wanted[here] - before, right=True).clamp(max=max(0, source.n - 1))
    return np.unique(distributed.all_reduce_sum(found.to(source.device)).cpu().numpy())
