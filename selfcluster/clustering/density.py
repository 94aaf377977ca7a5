"""Clusters by density on a graph of nearest neighbors; their number is found, not given.

Rows are embedded by the graph's leading eigenvectors. HDBSCAN finds the dense groups. The rows that it leaves over belong to the group with
the nearest mean.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from sklearn.cluster import HDBSCAN
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering.neighbor_graph import graph_embedding, sample_rows

_POWER = 8
"""Power of the eigenvalues of the graph; larger values smooth more."""
_MIN_SIZE = 12
"""Smallest number of rows in a cluster."""
_MAX_ROWS = 10_000
"""Rows that clusters are found on; more are sampled."""
_FEWEST = 10
"""Rows below which nothing is dense."""


def density_centroids(features: Float[Tensor, "n f"], *, seed: int = 0) -> Float[Tensor, "k f"]:
    """Find dense groups of rows and return their mean directions.

    Args:
        features: compared by cosine; centered features have clearer groups.
        seed: random seed of the sample, if there are more than 10,000 rows.
    Returns:
        unit rows; none if no two groups are dense.
    Source: spectral embedding, Ng, Jordan and Weiss 2001, and HDBSCAN, Campello, Moulavi and Sander 2013.
    """
    features = features[torch.from_numpy(sample_rows(len(features), _MAX_ROWS, seed))]
    n, unit = len(features), normalize(features)
    if n < _FEWEST:
        return unit[:0]
    embedding = graph_embedding(features, power=_POWER)
    groups = torch.from_numpy(HDBSCAN(min_cluster_size=min(_MIN_SIZE, max(2, n // 10)), copy=True).fit_predict(embedding))
    sums = torch.zeros(int(groups.max()) + 1, unit.shape[1]).index_add_(0, groups[groups >= 0], unit[groups >= 0])
    return normalize(sums)
