"""Near-duplicates within clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch


def test_large_clusters_are_searched_for_copies_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from selfcluster.clustering import duplicates

    monkeypatch.setattr(duplicates, "_LARGEST", 8)
    features = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    features[31] = features[2]
    looks = np.random.default_rng(0).normal(size=(40, 192)).astype(np.float32)
    looks[31] = looks[2]
    found = duplicates.duplicates_of(features, looks, torch.zeros(40, dtype=torch.int64))
    assert found.tolist() == [2 if row == 31 else -1 for row in range(40)]


def test_a_chain_of_copies_points_at_its_first() -> None:
    from selfcluster.clustering import duplicates

    turns = torch.tensor([0.0, 3.0, 0.12, 0.24, 6.0])  # cosines of 0.993 between neighbors in the chain, 0.971 at its ends
    features = torch.stack([turns.cos(), turns.sin()], dim=1)
    clusters = torch.zeros(5, dtype=torch.int64)
    found = duplicates.duplicates_of(features, np.zeros((5, 192), dtype=np.float32), clusters)
    assert found.tolist() == [-1, -1, 0, 0, -1]
    clusters[2] = 1
    assert duplicates.duplicates_of(features, np.zeros((5, 192), dtype=np.float32), clusters).tolist() == [-1] * 5
