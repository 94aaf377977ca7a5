"""Clusters on the graph of neighbors keep stretched groups whole."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfcluster.clustering import metrics
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.neighbor_graph import graph_embedding, neighbor_graph, sample_rows, shared_neighbor_graph, spectral_centroids


def _rings(n: int = 300) -> tuple[Tensor, np.ndarray]:
    """Two interlocked rings in four dimensions, as long as they are wide, far enough apart that no neighbor is on the other."""
    angle = torch.linspace(0, 2 * torch.pi, n + 1)[:-1]
    generator = torch.Generator().manual_seed(0)
    rings = [torch.stack([angle.cos(), angle.sin(), torch.full((n,), z)], dim=1) for z in (0.6, -0.6)]
    return torch.cat(rings) + 0.02 * torch.randn(2 * n, 3, generator=generator), np.repeat([0, 1], n)


def test_eigenvectors_separate_groups_that_kmeans_cuts() -> None:
    rows, group = _rings()
    embedding = torch.from_numpy(graph_embedding(neighbor_graph(rows), power=2)).float()
    assert embedding.shape == (600, 96)
    assert torch.allclose(embedding.norm(dim=1), torch.ones(600))
    cells = kmeans(embedding, 20, spherical=True, seed=0).assignments.numpy()
    of_graph = [len(np.unique(group[cells == cell])) for cell in np.unique(cells)]
    assert max(of_graph) == 1
    assert metrics.nmi(kmeans(rows, 2, spherical=True, seed=0).assignments.numpy(), group) < 0.9


def test_centroids_are_mean_directions_of_the_clusters_and_repeat() -> None:
    rows, _ = _rings(60)
    found = spectral_centroids(rows, (3, 8), seed=1)
    assert [of_head.shape for of_head in found] == [(3, 3), (8, 3)]
    assert all(torch.allclose(of_head.norm(dim=1), torch.ones(len(of_head))) for of_head in found)
    again = spectral_centroids(rows, (3, 8), seed=1)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_a_sample_is_ascending_repeats_and_follows_the_seed() -> None:
    assert sample_rows(5, 10, 0).tolist() == [0, 1, 2, 3, 4]
    sampled = sample_rows(1000, 50, 0)
    assert len(np.unique(sampled)) == 50
    assert (np.diff(sampled) > 0).all()
    assert np.array_equal(sampled, sample_rows(1000, 50, 0))
    assert not np.array_equal(sampled, sample_rows(1000, 50, 1))


def test_edges_between_rows_are_weighted_by_the_neighbors_that_they_share() -> None:
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.02], [1.0, 0.05], [0.0, 1.0], [0.02, 1.0], [0.05, 1.0]])
    graph = shared_neighbor_graph(rows, 2).toarray()
    assert np.allclose(graph, graph.T)
    assert np.allclose(graph[:3, :3], 1 - np.eye(3))  # each has the other two
    assert not graph[:3, 3:].any()
