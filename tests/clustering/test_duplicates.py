"""Copies are found among many images a part at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch


def test_large_clusters_are_searched_for_copies_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    from selfcluster.clustering import duplicates

    monkeypatch.setattr(duplicates, "_MOST", 8)
    features = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    features[31] = features[2]
    looks = np.random.default_rng(0).normal(size=(40, 192)).astype(np.float32)
    looks[31] = looks[2]
    found = duplicates.duplicates_of(features, looks, torch.zeros(40, dtype=torch.int64))
    assert found.tolist() == [2 if row == 31 else -1 for row in range(40)]
