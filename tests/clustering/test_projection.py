from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness

from selfcluster.clustering import projection
from selfcluster.clustering.projection import check_projection, project
from selfcluster.errors import ConfigError

FEATURES = torch.cat([torch.eye(8)[i] + 0.05 * torch.randn(20, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)])


def apart(places: np.ndarray) -> bool:
    """Whether the three groups lie farther from each other than they are wide."""
    groups = places.reshape(3, 20, 2)
    middles = groups.mean(axis=1)
    width = np.linalg.norm(groups - middles[:, None], axis=2).mean()
    return min(np.linalg.norm(middles[i] - middles[j]) for i in range(3) for j in range(i)) > 3 * width


def test_pca_keeps_groups_apart_and_is_the_same_every_time() -> None:
    places = project(FEATURES, "pca")
    assert apart(places)
    np.testing.assert_array_equal(places, project(FEATURES, "pca"))
    # Neither the length nor the order of the rows matters.
    np.testing.assert_allclose(project(3 * FEATURES.flip(0), "pca")[::-1], places, atol=1e-6)


def test_tsne_keeps_groups_apart_and_is_the_same_every_time() -> None:
    places = project(FEATURES, "tsne")
    assert apart(places)
    np.testing.assert_array_equal(places, project(FEATURES, "tsne"))


def test_rows_that_are_no_landmarks_lie_between_those_that_are_like_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projection, "_LANDMARKS", 30)
    places = project(FEATURES, "tsne")
    assert apart(places)
    assert len(np.unique(places, axis=0)) == 60


def test_neighbors_on_the_map_are_neighbors_of_the_features_more_often_than_by_principal_components() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.eye(64).repeat_interleave(8, dim=0) + 0.1 * torch.randn(512, 64, generator=draw)
    tsne, pca = (trustworthiness(features.numpy(), project(features, name), n_neighbors=5) for name in ("tsne", "pca"))  # type: ignore[arg-type]
    assert tsne > 0.95 > pca


@pytest.mark.parametrize("name", ["pca", "tsne"])
def test_few_or_equal_points(name: Any) -> None:
    for features in (
        torch.eye(4)[:0],
        torch.eye(4)[:1],
        torch.eye(4)[:2],
        torch.ones(5, 4),
        torch.rand(6, 1),
        torch.ones(20, 4),
        torch.rand(20, 1),
    ):
        places = project(features, name)
        assert places.shape == (len(features), 2)
        assert np.isfinite(places).all()


def test_umap_keeps_groups_apart() -> None:
    pytest.importorskip("umap", reason="the extra umap is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        places = project(FEATURES, "umap", seed=1)
    assert apart(places)
    assert places.dtype == np.float32


def test_refuses_unknown_projections() -> None:
    with pytest.raises(ConfigError, match="must be tsne, pca or umap"):
        check_projection("trimap")
