"""The graph of nearest neighbors: its leading eigenvectors, and clusters of them.

Rows that many paths of the graph connect have similar eigenvectors, however long the group that they belong to is stretched in the space of
the features; k-means on the features themselves cuts such a group into pieces.

Source: spectral clustering, Ng, Jordan and Weiss 2001.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.neighbors import nearest_neighbors

_N_NEIGHBORS = 10
_N_EIGENVECTORS = 96
_SAMPLE = 0xDE
"""Key of the random draws."""


def graph_embedding(features: Float[Tensor, "n f"], *, power: float) -> NDArray[np.float64]:
    """Return the leading eigenvectors of the normalized adjacency of the graph of 10 nearest neighbors.

    Args:
        features: compared by cosine.
        power: each eigenvector is weighted by this power of its eigenvalue; larger values smooth rows more over their neighbors.
    Returns:
        unit rows; 96 columns, or a fifth as many as rows.
    """
    n = len(features)
    index, cosine = nearest_neighbors(features, _N_NEIGHBORS)
    rows = np.repeat(np.arange(n), index.shape[1])
    graph = csr_array((cosine.clamp(min=1e-6).double().numpy().ravel(), (rows, index.numpy().ravel())), shape=(n, n))
    graph = graph + graph.T
    scale = diags_array(graph.sum(axis=1) ** -0.5)
    values, vectors = eigsh(scale @ graph @ scale, k=min(_N_EIGENVECTORS, n // 5), which="LA", v0=np.ones(n))
    embedding = vectors * values.clip(min=0) ** power
    return embedding / np.linalg.norm(embedding, axis=1, keepdims=True).clip(min=1e-12)


def spectral_centroids(features: Float[Tensor, "n f"], ks: tuple[int, ...], *, seed: int = 0) -> list[Float[Tensor, "k f"]]:
    """Cluster the rows by spherical k-means on the graph's eigenvectors, and return the mean direction of each cluster.

    Args:
        features: compared by cosine; center them first.
        ks: number of clusters of each clustering, at most as many as rows.
        seed: random seed of k-means.
    Returns:
        unit rows, for each number of clusters.
    """
    unit, embedding = normalize(features), torch.from_numpy(graph_embedding(features, power=2)).float()
    found = []
    for number, k in enumerate(ks):
        cells = kmeans(embedding, k, spherical=True, seed=randomness.seed_from(seed, number)).assignments
        found.append(normalize(torch.zeros(k, unit.shape[1]).index_add_(0, cells, unit)))
    return found


def sample_rows(n: int, at_most: int, seed: int) -> NDArray[np.int64]:
    """Return the ascending positions of a random sample of n rows; of all of them if there are no more than `at_most`."""
    if n <= at_most:
        return np.arange(n)
    key = randomness.uniform(seed, _SAMPLE, np.arange(n), n=1)[:, 0]
    return np.sort(np.argsort(key)[:at_most])
