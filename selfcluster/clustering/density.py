"""Clusters by density on a graph of nearest neighbors; their number is found, not given.

Rows are embedded by the leading eigenvectors of the normalized adjacency of the graph, weighted by powers of their eigenvalues, which
smooth each row over its neighbors, and scaled to unit norm. HDBSCAN finds the dense groups. The rows that it leaves over belong to the
group with the nearest mean.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import eigsh
from sklearn.cluster import HDBSCAN
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.clustering.neighbors import nearest_neighbors

_N_NEIGHBORS = 10
_N_EIGENVECTORS = 96
_POWER = 8
"""Power of the eigenvalues; larger values smooth more."""
_MIN_SIZE = 12
"""Smallest number of rows in a cluster."""
_MAX_ROWS = 10_000
"""Rows that clusters are found on; more are sampled."""
_SAMPLE = 0xDE
"""Key of the random draws."""


def density_centroids(features: Float[Tensor, "n f"], *, seed: int = 0) -> Float[Tensor, "k f"]:
    """Find dense groups of rows and return their mean directions.

    Args:
        features: compared by cosine; centered features have clearer groups.
        seed: random seed of the sample, if there are more than 10,000 rows.
    Returns:
        unit rows; none if no two groups are dense.
    Source: spectral embedding, Ng, Jordan and Weiss 2001, and HDBSCAN, Campello, Moulavi and Sander 2013.
    """
    if len(features) > _MAX_ROWS:
        key = randomness.uniform(seed, _SAMPLE, np.arange(len(features)), n=1)[:, 0]
        features = features[torch.from_numpy(np.sort(np.argsort(key)[:_MAX_ROWS]))]
    n, unit = len(features), normalize(features)
    n_eigenvectors = min(_N_EIGENVECTORS, n // 5)
    if n_eigenvectors < 2:
        return unit[:0]
    index, cosine = nearest_neighbors(features, _N_NEIGHBORS)
    rows = np.repeat(np.arange(n), index.shape[1])
    graph = csr_array((cosine.clamp(min=1e-6).double().numpy().ravel(), (rows, index.numpy().ravel())), shape=(n, n))
    graph = graph + graph.T
    scale = diags_array(graph.sum(axis=1) ** -0.5)
    values, vectors = eigsh(scale @ graph @ scale, k=n_eigenvectors, which="LA", v0=np.ones(n))
    embedding = vectors * values.clip(min=0) ** _POWER
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True).clip(min=1e-12)
    groups = torch.from_numpy(HDBSCAN(min_cluster_size=min(_MIN_SIZE, max(2, n // 10)), copy=True).fit_predict(embedding))
    sums = torch.zeros(int(groups.max()) + 1, unit.shape[1]).index_add_(0, groups[groups >= 0], unit[groups >= 0])
    return normalize(sums)
