"""The graph of nearest neighbors: its leading eigenvectors, and clusters of them.

Rows that many paths of the graph connect have similar eigenvectors, however long the group that they belong to is stretched in the space of
the features; k-means on the features themselves cuts such a group into pieces.

Source: spectral clustering, Ng, Jordan and Weiss 2001.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import eigsh
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.neighbors import nearest_neighbors

N_NEIGHBORS = 10
_N_EIGENVECTORS = 96
_SAMPLE = 0xDE
"""Key of the random draws."""


def neighbor_graph(features: Float[Tensor, "n f"], k: int = N_NEIGHBORS) -> csr_array:
    """Return the graph of k nearest neighbors by cosine, weighted by the cosine; twice where each is a neighbor of the other."""
    index, cosine = nearest_neighbors(features, k)
    graph = _of_lists(index, cosine.clamp(min=1e-6).double().numpy())
    return csr_array(graph + graph.T)


def shared_neighbor_graph(features: Float[Tensor, "n f"], k: int) -> csr_array:
    """Return the same graph weighted by the share of neighbors that both rows have in common, of all that they have, themselves included.

    Source: Jarvis and Patrick, 1973, with Jaccard's index as Levine et al., 2015 (PhenoGraph).
    """
    index, _ = nearest_neighbors(features, k)
    lists = _of_lists(index, np.ones(index.shape))
    edges = (lists + lists.T).tocoo()
    lists = csr_array(lists + eye_array(len(index)))
    in_common = np.asarray((lists @ lists.T).tocsr()[edges.row, edges.col]).ravel()
    return csr_array((in_common / (2 * (index.shape[1] + 1) - in_common), (edges.row, edges.col)), shape=edges.shape)


def _of_lists(index: Int64[Tensor, "n k"], weights: Float[np.ndarray, "n k"]) -> csr_array:
    rows = np.repeat(np.arange(len(index)), index.shape[1])
    return csr_array((weights.ravel(), (rows, index.numpy().ravel())), shape=(len(index), len(index)))


def graph_embedding(graph: csr_array, *, power: float, n_vectors: int = _N_EIGENVECTORS) -> Float[np.ndarray, "n e"]:
    """Return the leading eigenvectors of the graph's normalized adjacency.

    Args:
        graph: from `neighbor_graph`.
        power: each eigenvector is weighted by this power of its eigenvalue; larger values smooth rows more over their neighbors.
        n_vectors: number of eigenvectors; at most a fifth of the rows.
    Returns:
        unit rows.
    """
    n = graph.shape[0]
    scale = diags_array(np.asarray(graph.sum(axis=1)).ravel() ** -0.5)
    values, vectors = eigsh(scale @ graph @ scale, k=min(n_vectors, n // 5), which="LA", v0=np.ones(n))
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
    unit, embedding = normalize(features), torch.from_numpy(graph_embedding(neighbor_graph(features), power=2)).float()
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
