"""The number of clusters by silhouette."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize


def test_the_number_of_clusters_by_silhouette() -> None:
    from selfcluster.clustering.n_clusters import candidates, choose_n_clusters

    draw = torch.Generator().manual_seed(1)
    centers = normalize(torch.randn(6, 32, generator=draw))
    points = torch.cat([c + 0.05 * torch.randn(60, 32, generator=draw) for c in centers])
    k, tried = choose_n_clusters(points)
    assert k == 6
    assert [one.k for one in tried] == candidates(72)
    assert max(tried, key=lambda one: one.silhouette).k == 6
    assert candidates(2) == [2]
