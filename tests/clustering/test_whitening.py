"""Whitening: unit variance in every direction, without amplifying noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from selfcluster.clustering import whitening
from selfcluster.clustering.whitening import fit_whitening
from tests.ranks import on_ranks


def _features(n: int = 60, f: int = 6, seed: int = 0) -> Tensor:
    """Return correlated features of very different scales, far from the origin."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, f, generator=draw) @ (torch.eye(f) + 0.3 * torch.randn(f, f, generator=draw))
    return mixed * torch.logspace(-0.5, 0.5, f) + 5


def _naive(features: np.ndarray, width: int) -> np.ndarray:
    """Whiten by a singular value decomposition in float64; rows have unit norm."""
    centered = features.astype(np.float64) - features.astype(np.float64).mean(axis=0)
    _, singular, directions = np.linalg.svd(centered, full_matrices=False)
    rows = centered @ directions[:width].T / (singular[:width] / np.sqrt(len(features)))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_whitened_rows_have_the_identity_as_covariance() -> None:
    features = _features()
    w = fit_whitening(features)
    rows = ((features - w.mean) @ w.components).double()
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(rows.T @ rows / len(rows), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-3)


@pytest.mark.parametrize("width", [6, 3, 1])
def test_equals_a_singular_value_decomposition_but_for_signs(width: int) -> None:
    features = _features()
    rows, expected = fit_whitening(features, width)(features).numpy(), _naive(features.numpy(), width)
    np.testing.assert_allclose(rows * np.sign(rows[0]), expected * np.sign(expected[0]), rtol=0, atol=1e-4)


def test_rows_have_unit_norm_and_a_row_at_the_mean_stays_zero() -> None:
    half = torch.tensor([[1.0, 2.0, 0.0], [3.0, -1.0, 1.0], [0.0, 1.0, 4.0]])
    features = torch.cat([half, -half, torch.zeros(1, 3)]) + torch.tensor([8.0, 0.0, -2.0])
    rows = fit_whitening(features)(features)
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0] * 6 + [0.0]))


def test_dead_units_are_not_whitened_into_noise() -> None:
    alive = _features(f=3) - 5
    noise = 1e-6 * torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
    features = torch.cat([alive, torch.zeros(60, 1), noise], dim=1)
    rows, of_alive = fit_whitening(features)(features), fit_whitening(alive)(alive)
    assert rows.shape == (60, 6)
    torch.testing.assert_close(rows @ rows.T, of_alive @ of_alive.T, rtol=0, atol=1e-3)
    blown_up = fit_whitening(features, floor=1e-30)(features)
    assert (blown_up @ blown_up.T - of_alive @ of_alive.T).abs().max() > 0.1, "without the floor the noise counts as much as the rest"


@pytest.mark.parametrize(("n", "f", "width", "kept"), [(60, 6, 256, 6), (60, 6, 4, 4), (5, 6, 256, 4), (2, 6, 256, 1)])
def test_width_is_at_most_the_rank(n: int, f: int, width: int, kept: int) -> None:
    features = _features(n, f)
    w = fit_whitening(features, width)
    assert w.components.shape == (f, kept)
    assert w(features).shape == (n, kept)
    assert torch.isfinite(w(features)).all()


def test_other_rows_are_whitened_in_the_same_way() -> None:
    features = _features()
    w = fit_whitening(features)
    torch.testing.assert_close(w(features[10:13]), w(features)[10:13])


def test_a_memory_map_an_array_and_a_tensor_give_the_same(tmp_path: Path) -> None:
    features = _features()
    np.save(tmp_path / "features.npy", features.numpy())
    given = [features, features.numpy(), np.load(tmp_path / "features.npy", mmap_mode="r")]
    first, *others = [fit_whitening(x) for x in given]  # type: ignore[arg-type]
    for other in others:
        assert torch.equal(first.components, other.components)
        assert torch.equal(first.mean, other.mean)


def test_rows_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    features = _features()
    whole = fit_whitening(features)(features)
    monkeypatch.setattr(whitening, "_BLOCK_VALUES", 6 * 7)
    assert [len(block) for block in whitening.blocks_of(features.numpy(), torch.device("cpu"))] == [7] * 8 + [4]
    torch.testing.assert_close(fit_whitening(features.numpy())(features), whole)


def test_numbers_far_from_the_origin_keep_their_digits() -> None:
    features = _features() + 1e4
    rows = fit_whitening(features)(features).numpy()
    expected = _naive(features.numpy(), 6)
    np.testing.assert_allclose(rows * np.sign(rows[0]), expected * np.sign(expected[0]), rtol=0, atol=2e-2)


def test_spread_is_the_distance_from_the_mean_over_the_length() -> None:
    assert fit_whitening(torch.tensor([[3.0, 4.0], [3.0, -4.0]])).spread == pytest.approx(4 / 5)
    for constant in (torch.full((9, 4), 0.3), torch.zeros(9, 4)):
        w = fit_whitening(constant)
        assert w.spread == pytest.approx(0, abs=1e-7)
        assert not w(constant).isnan().any()


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_rows_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"at least two rows, got {n}"):
        fit_whitening(torch.ones(n, 3))


def _of_part(features: Tensor, splits: list[int]) -> list[tuple[Tensor, Tensor, float]]:
    from selfcluster import distributed

    found = []
    for first_rows in splits:
        w = fit_whitening(features[:first_rows] if distributed.rank() == 0 else features[first_rows:])
        found.append((w.mean, w.components, w.spread))
    return found


def test_two_ranks_with_unequal_rows_equal_one() -> None:
    features = _features()
    alone = fit_whitening(features)
    left, right = on_ranks(_of_part, features, [30, 13, 0])
    for (mean, components, spread), on_right in zip(left, right, strict=True):
        assert torch.equal(components, on_right[1]), "the ranks must whiten in the same way"
        torch.testing.assert_close(mean, alone.mean)
        torch.testing.assert_close(components @ components.T, alone.components @ alone.components.T, rtol=1e-4, atol=1e-5)
        assert spread == pytest.approx(alone.spread)
