"""Nearest neighbors among many rows: of up to 50,000 exactly, of more approximately, among the rows of nearby cells alone.

The cells are those of k-means, as many as the square root of the rows, so time grows with the power 1.5 of the rows instead of 2. Near copies
of a row are nearly always in its cell or in one of the nearest cells.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.neighbors import nearest_centroids, nearest_neighbors

EXACT = 50_000
"""Rows up to which all pairs are compared."""
_N_PROBED = 8
"""Nearest cells that are searched."""
_ROWS_PER_CELL, _ITERATIONS = 64, 10
"""Rows for each cell in the sample that cells are found on."""
_KEY = 0xCE11
"""Key of the random draws."""


def near_neighbors(
    rows: Float[Tensor, "n f"], k: int, *, seed: int = 0, exact: int = EXACT
) -> tuple[Int64[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Return the k other rows with the largest cosine to each row, nearest first, and these cosines; see `nearest_neighbors`.

    Args:
        rows: finite, of unit norm, on the CPU.
        k: at least 0; m is lower if there are fewer other rows.
        seed: random seed of the cells.
        exact: number of rows up to which all pairs are compared.
    """
    if len(rows) <= max(exact, k + 1):
        return nearest_neighbors(rows, k)
    centroids, members = _cells(rows, seed)
    by_nearness = (centroids @ centroids.T).argsort(dim=1, descending=True)
    index, cosine = torch.empty(len(rows), k, dtype=torch.long), torch.empty(len(rows), k)
    for cell, queries in enumerate(members):
        if not len(queries):
            continue
        others = [other for other in by_nearness[cell].tolist() if other != cell]
        searched = [queries]
        while others and (len(searched) < _N_PROBED or sum(map(len, searched)) <= k):
            searched.append(members[others.pop(0)])
        candidates = torch.cat(searched)
        scores = rows[queries] @ rows[candidates].T
        scores.diagonal().fill_(-torch.inf)  # the queries come first among the candidates
        cosine[queries], place = scores.topk(k)
        index[queries] = candidates[place]
    return index, cosine


def _cells(unit: Float[Tensor, "n f"], seed: int) -> tuple[Float[Tensor, "c f"], list[Int64[Tensor, " m"]]]:
    """Return the centers of the cells, and the rows of each."""
    n_cells = round(len(unit) ** 0.5)
    sample = torch.from_numpy(randomness.permutation(len(unit), seed, _KEY)[: _ROWS_PER_CELL * n_cells])
    centroids = normalize(kmeans(unit[sample], n_cells, spherical=True, iterations=_ITERATIONS, seed=seed).centroids)
    cell, _ = nearest_centroids(unit, centroids, torch.arange(n_cells))
    return centroids, list(cell.argsort(stable=True).split(torch.bincount(cell, minlength=n_cells).tolist()))
