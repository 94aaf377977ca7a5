"""k-means equals the naive loop, scikit-learn and faiss, on every kind of points, and refuses what it cannot cluster."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfcluster.clustering import assignment, blocks, initialization
from selfcluster.clustering import kmeans as module
from selfcluster.clustering.kmeans import kmeans, nearest
from tests import reference
from tests.clustering.found import check_found, check_same, clumps, random_points, unit_rows


def test_exact_values_of_deepcluster_v2() -> None:
    angles = 0.37 * torch.arange(40, dtype=torch.float64)
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    # fmt: off
    labels = [1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3]
    # fmt: on
    for dtype in (torch.float64, torch.float32):
        found = kmeans(points.to(dtype), 4, init=points[:4], spherical=True, iterations=10)
        assert found.assignments.tolist() == labels
        assert found.centroids.dtype == dtype


@pytest.mark.parametrize(
    ("n", "d", "k", "offset", "spherical"),
    [
        *((60, 3, 5, 0.0, spherical) for spherical in (False, True)),
        *((40, 2, 7, 0.5, spherical) for spherical in (False, True)),
        *((50, 4, 6, 20.0, spherical) for spherical in (False, True)),
        *((25, 8, 1, 0.0, spherical) for spherical in (False, True)),
        (30, 1, 4, 0.0, False),
    ],
)
def test_equals_the_naive_loop(n: int, d: int, k: int, offset: float, spherical: bool) -> None:
    points = random_points(n, d, seed=n, offset=offset, dtype=torch.float64)
    start = points[:k]
    centroids, assignments, inertia, n_moved = reference.kmeans(points.numpy(), start.numpy(), 8, spherical)
    found = kmeans(points, k, iterations=8, init=start, spherical=spherical, empty="keep")
    np.testing.assert_allclose(found.centroids.numpy(), centroids, rtol=1e-9, atol=1e-12)
    assert found.assignments.tolist() == assignments.tolist()
    assert found.inertia == pytest.approx(inertia, rel=1e-7, abs=1e-10)
    assert list(found.n_reassigned) == n_moved


def test_equals_the_naive_loop_in_float32_and_with_zero_rows() -> None:
    points = random_points(50, 3)
    points[[4, 9]] = 0
    for spherical in (False, True):
        centroids, assignments, inertia, _ = reference.kmeans(points.numpy(), points[:6].numpy(), 6, spherical)
        # Every direction is equally far from a row that has none, so it may go anywhere.
        rest = [i for i in range(50) if not (spherical and i in (4, 9))]
        found = kmeans(points, 6, iterations=6, init=points[:6], spherical=spherical, empty="keep")
        np.testing.assert_allclose(found.centroids.numpy(), centroids, rtol=1e-4, atol=1e-5)
        assert found.assignments[rest].tolist() == assignments[rest].tolist()
        assert found.inertia == pytest.approx(inertia, rel=1e-5)


def test_equals_scikit_learn() -> None:
    from sklearn.cluster import KMeans

    points = clumps(2000, 6, 8).double()
    theirs = KMeans(12, init=points[:12].numpy(), n_init=1, max_iter=30, tol=0).fit(points.numpy())
    found = kmeans(points, 12, init=points[:12], iterations=30)
    np.testing.assert_allclose(found.centroids.numpy(), theirs.cluster_centers_, rtol=1e-8, atol=1e-10)
    assert found.assignments.tolist() == theirs.labels_.tolist()
    assert float(nearest(points, found.centroids)[1].sum()) == pytest.approx(theirs.inertia_, rel=1e-9)


def test_equals_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    points = clumps(2000, 6, 8)
    theirs = faiss.Kmeans(6, 12, niter=10, min_points_per_centroid=1, max_points_per_centroid=len(points))
    theirs.train(points.numpy(), init_centroids=points[:12].numpy())
    found = kmeans(points, 12, init=points[:12], iterations=10)
    np.testing.assert_allclose(found.centroids.numpy(), theirs.centroids, atol=0.02)
    assert found.inertia == pytest.approx(theirs.obj.tolist(), rel=1e-3)


def test_the_defaults() -> None:
    points = random_points(100, 3)
    same = kmeans(points, 5, iterations=20, spherical=False, init="random", empty="split", tolerance=0.0, chunk_bytes=None, seed=0)
    check_same(kmeans(points, 5), same)


def test_a_start_is_a_function_of_the_seed() -> None:
    points = random_points(300, 4)
    for init in ("random", "k-means++"):
        a, b, c = (kmeans(points, 9, iterations=1, init=init, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(a.centroids, b.centroids)
        assert not torch.equal(a.centroids, c.centroids)
    kmeans(points, 9, seed=2**62 + 1)


@pytest.mark.parametrize("spherical", [False, True])
def test_inertia_never_rises_and_ends_at_the_assignment_returned(spherical: bool) -> None:
    for seed in range(8):
        points = random_points(80 + seed, 1 + seed % 4, seed)
        found = kmeans(points, 2 + seed, iterations=30, spherical=spherical, seed=seed)
        steps = np.diff(found.inertia)
        assert steps.max() <= 1e-5 * found.inertia[0]
        if found.n_reassigned[-1] == 0:
            assert found.inertia[-1] == pytest.approx(
                float(nearest(points, found.centroids, spherical=spherical)[1].sum()), rel=1e-3, abs=1e-5
            )
        check_found(found, points, 2 + seed, spherical=spherical)


def test_without_a_tolerance_all_iterations_are_there() -> None:
    """Near the end, rounding in float32 may raise the inertia slightly, which must not stop it."""
    risen = 0
    for seed in range(4):
        found = kmeans(random_points(1000, 2, seed, offset=10), 100, iterations=60, spherical=True, seed=seed)
        assert len(found.inertia) == len(found.n_reassigned) == 60
        risen += int((np.diff(found.inertia) > 0).any())
    assert risen > 0, "these points no longer show it"


def test_a_round_that_moves_nothing_is_repeated() -> None:
    found = kmeans(clumps(100, 2, 3), 3, iterations=50, init="k-means++")
    assert len(found.inertia) == len(found.n_reassigned) == 50
    assert found.n_reassigned[0] == 100
    assert found.n_reassigned[-20:] == (0,) * 20
    assert len(set(found.inertia[-20:])) == 1


def test_a_tolerance_stops_early() -> None:
    points = random_points(3000, 2)
    full, some, few = (kmeans(points, 30, iterations=60, tolerance=tolerance) for tolerance in (0.0, 1e-3, 0.05))
    assert len(full.inertia) == 60 > len(some.inertia) > len(few.inertia) > 1
    for found, tolerance in ((some, 1e-3), (few, 0.05)):
        n = len(found.inertia)
        assert found.inertia == full.inertia[:n]
        assert found.n_reassigned == full.n_reassigned[:n]
        shares = [1 - b / a for a, b in zip(found.inertia, found.inertia[1:], strict=False)]
        assert shares[-1] < tolerance
        assert all(share >= tolerance for share in shares[:-1])
        check_found(found, points, 30)


@pytest.mark.parametrize("spherical", [False, True])
def test_centroids_are_the_means_once_it_has_converged(spherical: bool) -> None:
    points = random_points(200, 3, dtype=torch.float64)
    found = kmeans(points, 6, iterations=100, spherical=spherical)
    assert found.n_reassigned[-1] == 0
    rows = unit_rows(points) if spherical else points
    means = torch.stack([rows[found.assignments == cluster].mean(dim=0) for cluster in range(6)])
    torch.testing.assert_close(found.centroids, unit_rows(means) if spherical else means)
    if spherical:
        torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_spherical_depends_on_directions_only() -> None:
    points = random_points(120, 3, dtype=torch.float64)
    lengths = torch.linspace(0.1, 50, 120, dtype=torch.float64)[:, None]
    check_same(kmeans(points * lengths, 5, spherical=True), kmeans(points, 5, spherical=True))


def test_the_order_of_points_only_orders_the_assignments() -> None:
    points, order = random_points(150, 3), torch.randperm(150, generator=torch.Generator().manual_seed(1))
    a, b = kmeans(points, 6, init=points[:6]), kmeans(points[order], 6, init=points[:6])
    assert torch.equal(a.assignments[order], b.assignments)
    torch.testing.assert_close(a.centroids, b.centroids)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_tensor_array_and_memory_map_give_one_result(tmp_path: Path, spherical: bool, offset: float) -> None:
    points = random_points(500, 5, offset=offset)
    array = points.numpy().copy()
    np.save(tmp_path / "points.npy", array)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(array))
    apart = torch.zeros(500, 10)
    apart[:, ::2] = points
    read_only = array.copy()
    read_only.flags.writeable = False
    expected = kmeans(points, 8, spherical=spherical)
    kinds: dict[str, Any] = {
        "array": array,
        "read-only array": read_only,
        "Fortran order": np.asfortranarray(array),
        "other byte order": array.astype(array.dtype.newbyteorder()),
        "memory map": np.load(tmp_path / "points.npy", mmap_mode="r"),
        "writable memory map": np.load(tmp_path / "points.npy", mmap_mode="r+"),
        "memory map in Fortran order": np.load(tmp_path / "fortran.npy", mmap_mode="r"),
        "transposed": points.T.contiguous().T,
        "columns apart": apart[:, ::2],
        "with gradient": points.clone().requires_grad_(),
    }
    for kind, given in kinds.items():
        found = kmeans(given, 8, spherical=spherical)
        assert torch.equal(found.centroids, expected.centroids), kind
        assert torch.equal(found.assignments, expected.assignments), kind
        assert found.inertia == expected.inertia, kind
        assert not found.centroids.requires_grad
    assert np.array_equal(array, points.numpy())
    assert np.array_equal(np.load(tmp_path / "points.npy"), array)


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
        (torch.uint8, torch.float32),
    ],
)
def test_kinds_of_numbers(given: torch.dtype, returned: torch.dtype) -> None:
    points = (random_points(200, 4) * 20).abs().to(given)
    found, expected = kmeans(points, 6), kmeans(points.to(returned), 6)
    assert found.centroids.dtype == returned
    check_same(found, expected)
    if given != torch.bfloat16:
        check_same(kmeans(points.numpy(), 6), expected)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_chunks_change_nothing(init: str, spherical: bool) -> None:
    points = random_points(400, 4)
    expected = kmeans(points, 20, init=init, spherical=spherical)
    for chunk_bytes in (20 * 4 * 7, 1 << 13, 1 << 30):
        check_same(kmeans(points, 20, init=init, spherical=spherical, chunk_bytes=chunk_bytes), expected)


def test_scores_take_no_more_than_the_chunk() -> None:
    for rows, chunk_bytes in ((1, 1), (3, 3 * 50 * 4), (3, 3 * 50 * 4 + 199)):
        assert assignment.Scorer(random_points(50, 2), False, chunk_bytes).scores.shape == (rows, 50)
    assert assignment.Scorer(random_points(50, 2), False, None).scores.shape[0] <= blocks.BLOCK_ROWS


class _Watched(np.memmap):
    """A memory map that records the largest number of rows read at once."""

    most = 0

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        _Watched.most = max(_Watched.most, len(found) if getattr(found, "ndim", 0) == 2 else 0)
        return found


def test_a_memory_map_is_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for reader in (assignment, blocks):
        monkeypatch.setattr(reader, "BLOCK_ROWS", 64)
    points = torch.cat([random_points(500, 3), torch.zeros(500, 3)])
    watched = _Watched(tmp_path / "points", dtype=np.float32, mode="w+", shape=(1000, 3))
    watched[:] = points.numpy()
    _Watched.most = 0
    found = kmeans(watched, 12, init=torch.zeros(12, 3))
    assert 0 < _Watched.most <= 64
    check_same(found, kmeans(points, 12, init=torch.zeros(12, 3)))
    monkeypatch.undo()
    check_same(found, kmeans(points, 12, init=torch.zeros(12, 3)))


def test_a_start_may_be_of_any_kind() -> None:
    points = random_points(100, 3)
    expected = kmeans(points, 4, init=points[:4])
    read_only = points[:4].numpy().copy()
    read_only.flags.writeable = False
    for start in (points[:4].double(), points[:4].numpy(), read_only, points[:4].numpy().astype(">f8")):
        found = kmeans(points, 4, init=start)
        check_same(found, expected)
        assert np.array_equal(np.asarray(start, dtype=np.float32), points[:4].numpy())
    assert not kmeans(points, 4, init=points[:4].clone().requires_grad_()).centroids.requires_grad


def test_far_from_the_origin() -> None:
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    near = places[torch.arange(400) % 4] + 0.02 * random_points(400, 2)
    expected = kmeans(near, 4, init=places)
    found = kmeans(near + 1e4, 4, init=places + 1e4)
    assert torch.equal(found.assignments, expected.assignments)
    torch.testing.assert_close(found.centroids - 1e4, expected.centroids, rtol=0, atol=2e-3)
    assert found.inertia[-1] == pytest.approx(expected.inertia[-1], rel=0.02)
    spread = random_points(1000, 3)
    check_found(kmeans(spread + 1e4, 20), spread + 1e4, 20)
    check_found(kmeans(spread + 1e4, 20, init="k-means++"), spread + 1e4, 20)


def test_huge_values() -> None:
    points = clumps(90, 2, 3)
    expected = kmeans(points, 3, init=points[:3])
    check_same(kmeans(points * 2.0**50, 3, init=points[:3] * 2.0**50, spherical=True), kmeans(points, 3, init=points[:3], spherical=True))
    found = kmeans(points * 2.0**50, 3, init=points[:3] * 2.0**50)
    assert torch.equal(found.assignments, expected.assignments)
    torch.testing.assert_close(found.centroids / 2.0**50, expected.centroids)
    # Too long to be squared in float32, but their directions are well defined.
    directions = kmeans(points * 2.0**100, 3, init=points[:3], spherical=True)
    check_same(directions, kmeans(points, 3, init=points[:3], spherical=True))


def test_edges() -> None:
    points = random_points(30, 3)
    check_found(kmeans(points, 1), points, 1)
    torch.testing.assert_close(kmeans(points, 1).centroids[0], points.mean(dim=0))
    for spherical in (False, True):
        every = kmeans(points, 30, spherical=spherical)
        assert every.sizes.tolist() == [1] * 30
        assert every.inertia[-1] == pytest.approx(0, abs=1e-4)
        check_found(every, points, 30, spherical=spherical)
        one = kmeans(points[:1], 1, spherical=spherical, iterations=3)
        assert (one.sizes.tolist(), one.n_empty, one.n_reassigned) == ([1], 0, (1, 0, 0))
    check_found(kmeans(points[:, :1], 7), points[:, :1], 7)
    nothing = kmeans(torch.zeros(9, 4), 3, spherical=True)
    assert (nothing.n_empty, torch.isfinite(nothing.centroids).all().item()) == (2, True)


def test_autocast_has_no_effect() -> None:
    points = random_points(300, 16)
    expected = kmeans(points, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_same(kmeans(points, 10), expected)


@pytest.mark.parametrize(
    ("n", "k", "settings", "message"),
    [
        (5, 6, {}, "5 points are fewer than k = 6 clusters; lower k"),
        (0, 1, {}, "0 points are fewer than k = 1"),
        (5, 0, {}, "k must be at least 1, got 0"),
        (5, -2, {}, "k must be at least 1, got -2"),
        (5, 2, {"iterations": 0}, "iterations must be at least 1, got 0"),
        (5, 2, {"n_init": 0}, "n_init must be at least 1, got 0"),
        (5, 2, {"tolerance": -0.1}, "tolerance must be at least 0, got -0.1"),
        (5, 2, {"tolerance": math.nan}, "tolerance must be at least 0, got nan"),
        (5, 2, {"init": torch.zeros(3, 3)}, r"init has shape \(3, 3\), but k and the points require \(2, 3\)"),
        (5, 2, {"init": torch.full((2, 3), math.nan)}, "init contains a value that is not finite"),
        (5, 2, {"init": np.full((2, 3), math.inf)}, "init contains a value that is not finite"),
    ],
)
def test_refuses(n: int, k: int, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kmeans(random_points(n, 3), k, **settings)


def test_refuses_unknown_options() -> None:
    """Called directly, since the type checks in tests would reject these words earlier."""
    with pytest.raises(ValueError, match="empty 'drop' must be 'split' or 'keep'"):
        module._check_settings(2, 1, 1, "drop", 0.0)
    source = blocks.PointSource(random_points(5, 3), None, False)
    with pytest.raises(ValueError, match=r"init 'first' must be 'random', 'k-means\+\+' or a tensor of shape \(2, 3\)"):
        initialization.initial_centroids(source, 2, "first", 0, None)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 2)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"points must be \(n, d\), got shape"):
        kmeans(torch.zeros(shape), 2)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_points_that_are_not_finite(bad: float, spherical: bool) -> None:
    points = random_points(9000, 2)
    points[8500, 1] = bad
    with pytest.raises(ValueError, match="points contain a value that is not finite"):
        kmeans(points, 3, spherical=spherical)


@pytest.mark.parametrize("value", [2e19, 8e18, 1.5e38])
def test_refuses_points_too_large_to_be_squared(value: float) -> None:
    with pytest.raises(ValueError, match="too large to be squared"):
        kmeans(torch.cat([random_points(8, 4), torch.full((1, 4), value)]), 3)
