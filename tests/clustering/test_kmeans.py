from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfcluster import randomness
from selfcluster.clustering import assignment, blocks, initialization
from selfcluster.clustering import kmeans as module
from selfcluster.clustering.kmeans import Clustering, kmeans, nearest
from tests import reference
from tests.ranks import on_ranks


def _points(n: int, d: int, seed: int = 0, offset: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset).to(dtype)


def _clumps(n: int, d: int, n_clumps: int, seed: int = 0) -> Tensor:
    """Points of spread 0.1 around places of spread 3."""
    places = 3 * _points(n_clumps, d, seed)
    return places[torch.arange(n) % n_clumps] + 0.1 * _points(n, d, seed + 1)


def _unit(points: Tensor) -> Tensor:
    return torch.nn.functional.normalize(points.double())


def _same(a: Clustering, b: Clustering, *, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    assert torch.equal(a.assignments, b.assignments)
    assert torch.equal(a.sizes, b.sizes)
    assert a.n_reassigned == b.n_reassigned
    assert a.n_empty == b.n_empty
    torch.testing.assert_close(a.centroids, b.centroids, rtol=rtol, atol=atol)
    assert a.inertia == pytest.approx(b.inertia, rel=1e-5, abs=1e-4)


def _check(found: Clustering, points: Tensor, k: int, *, spherical: bool = False) -> None:
    """Check the properties of every result of one process."""
    assert found.centroids.shape == (k, points.shape[1])
    assert torch.isfinite(found.centroids).all()
    assert torch.equal(torch.bincount(found.assignments, minlength=k), found.sizes)
    assert int((found.sizes == 0).sum()) == found.n_empty
    rows, centroids = _unit(points) if spherical else points.double(), found.centroids.double()
    distances = 1 - rows @ centroids.T if spherical else torch.cdist(rows, centroids, compute_mode="donot_use_mm_for_euclid_dist").square()
    scale = 1.0 if spherical else float((rows - rows.mean(dim=0)).square().sum(dim=1).max()) + 1e-30
    chosen = distances.gather(1, found.assignments[:, None])[:, 0]
    assert float((chosen - distances.min(dim=1).values).max()) <= 1e-5 * scale
    if found.n_empty:
        rows = rows.to(points.dtype)
        for members in (rows[found.assignments == cluster] for cluster in range(k)):
            assert len(torch.unique(members, dim=0)) <= 1, "a cluster stays empty while another holds two distinct points"


# -------------------------------------------------------------------------------------------- exact values


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
    points = _points(n, d, seed=n, offset=offset, dtype=torch.float64)
    start = points[:k]
    centroids, assignments, inertia, n_moved = reference.kmeans(points.numpy(), start.numpy(), 8, spherical)
    found = kmeans(points, k, iterations=8, init=start, spherical=spherical, empty="keep")
    np.testing.assert_allclose(found.centroids.numpy(), centroids, rtol=1e-9, atol=1e-12)
    assert found.assignments.tolist() == assignments.tolist()
    assert found.inertia == pytest.approx(inertia, rel=1e-7, abs=1e-10)
    assert list(found.n_reassigned) == n_moved


def test_equals_the_naive_loop_in_float32_and_with_zero_rows() -> None:
    points = _points(50, 3)
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

    points = _clumps(2000, 6, 8).double()
    theirs = KMeans(12, init=points[:12].numpy(), n_init=1, max_iter=30, tol=0).fit(points.numpy())
    found = kmeans(points, 12, init=points[:12], iterations=30)
    np.testing.assert_allclose(found.centroids.numpy(), theirs.cluster_centers_, rtol=1e-8, atol=1e-10)
    assert found.assignments.tolist() == theirs.labels_.tolist()
    assert float(nearest(points, found.centroids)[1].sum()) == pytest.approx(theirs.inertia_, rel=1e-9)


def test_equals_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    points = _clumps(2000, 6, 8)
    theirs = faiss.Kmeans(6, 12, niter=10, min_points_per_centroid=1, max_points_per_centroid=len(points))
    theirs.train(points.numpy(), init_centroids=points[:12].numpy())
    found = kmeans(points, 12, init=points[:12], iterations=10)
    np.testing.assert_allclose(found.centroids.numpy(), theirs.centroids, atol=0.02)
    assert found.inertia == pytest.approx(theirs.obj.tolist(), rel=1e-3)


def test_the_defaults() -> None:
    points = _points(100, 3)
    same = kmeans(points, 5, iterations=20, spherical=False, init="random", empty="split", tolerance=0.0, chunk_bytes=None, seed=0)
    _same(kmeans(points, 5), same)


def test_a_start_is_a_function_of_the_seed() -> None:
    points = _points(300, 4)
    for init in ("random", "k-means++"):
        a, b, c = (kmeans(points, 9, iterations=1, init=init, seed=seed) for seed in (3, 3, 4))
        assert torch.equal(a.centroids, b.centroids)
        assert not torch.equal(a.centroids, c.centroids)
    kmeans(points, 9, seed=2**62 + 1)


# ------------------------------------------------------------------------------------------------------- invariants


@pytest.mark.parametrize("spherical", [False, True])
def test_inertia_never_rises_and_ends_at_the_assignment_returned(spherical: bool) -> None:
    for seed in range(8):
        points = _points(80 + seed, 1 + seed % 4, seed)
        found = kmeans(points, 2 + seed, iterations=30, spherical=spherical, seed=seed)
        steps = np.diff(found.inertia)
        assert steps.max() <= 1e-5 * found.inertia[0]
        if found.n_reassigned[-1] == 0:
            assert found.inertia[-1] == pytest.approx(
                float(nearest(points, found.centroids, spherical=spherical)[1].sum()), rel=1e-3, abs=1e-5
            )
        _check(found, points, 2 + seed, spherical=spherical)


def test_without_a_tolerance_all_iterations_are_there() -> None:
    """Near the end, rounding in float32 may raise the inertia slightly, which must not stop it."""
    risen = 0
    for seed in range(4):
        found = kmeans(_points(1000, 2, seed, offset=10), 100, iterations=60, spherical=True, seed=seed)
        assert len(found.inertia) == len(found.n_reassigned) == 60
        risen += int((np.diff(found.inertia) > 0).any())
    assert risen > 0, "these points no longer show it"


def test_a_round_that_moves_nothing_is_repeated() -> None:
    found = kmeans(_clumps(100, 2, 3), 3, iterations=50, init="k-means++")
    assert len(found.inertia) == len(found.n_reassigned) == 50
    assert found.n_reassigned[0] == 100
    assert found.n_reassigned[-20:] == (0,) * 20
    assert len(set(found.inertia[-20:])) == 1


def test_a_tolerance_stops_early() -> None:
    points = _points(3000, 2)
    full, some, few = (kmeans(points, 30, iterations=60, tolerance=tolerance) for tolerance in (0.0, 1e-3, 0.05))
    assert len(full.inertia) == 60 > len(some.inertia) > len(few.inertia) > 1
    for found, tolerance in ((some, 1e-3), (few, 0.05)):
        n = len(found.inertia)
        assert found.inertia == full.inertia[:n]
        assert found.n_reassigned == full.n_reassigned[:n]
        shares = [1 - b / a for a, b in zip(found.inertia, found.inertia[1:], strict=False)]
        assert shares[-1] < tolerance
        assert all(share >= tolerance for share in shares[:-1])
        _check(found, points, 30)


@pytest.mark.parametrize("spherical", [False, True])
def test_centroids_are_the_means_once_it_has_converged(spherical: bool) -> None:
    points = _points(200, 3, dtype=torch.float64)
    found = kmeans(points, 6, iterations=100, spherical=spherical)
    assert found.n_reassigned[-1] == 0
    rows = _unit(points) if spherical else points
    means = torch.stack([rows[found.assignments == cluster].mean(dim=0) for cluster in range(6)])
    torch.testing.assert_close(found.centroids, _unit(means) if spherical else means)
    if spherical:
        torch.testing.assert_close(found.centroids.norm(dim=1), torch.ones(6, dtype=torch.float64))


def test_spherical_depends_on_directions_only() -> None:
    points = _points(120, 3, dtype=torch.float64)
    lengths = torch.linspace(0.1, 50, 120, dtype=torch.float64)[:, None]
    _same(kmeans(points * lengths, 5, spherical=True), kmeans(points, 5, spherical=True))


def test_the_order_of_points_only_orders_the_assignments() -> None:
    points, order = _points(150, 3), torch.randperm(150, generator=torch.Generator().manual_seed(1))
    a, b = kmeans(points, 6, init=points[:6]), kmeans(points[order], 6, init=points[:6])
    assert torch.equal(a.assignments[order], b.assignments)
    torch.testing.assert_close(a.centroids, b.centroids)


# ------------------------------------------------------------------------------------------------------ kinds of points


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_tensor_array_and_memory_map_give_one_result(tmp_path: Path, spherical: bool, offset: float) -> None:
    points = _points(500, 5, offset=offset)
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
    points = (_points(200, 4) * 20).abs().to(given)
    found, expected = kmeans(points, 6), kmeans(points.to(returned), 6)
    assert found.centroids.dtype == returned
    _same(found, expected)
    if given != torch.bfloat16:
        _same(kmeans(points.numpy(), 6), expected)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_chunks_change_nothing(init: str, spherical: bool) -> None:
    points = _points(400, 4)
    expected = kmeans(points, 20, init=init, spherical=spherical)
    for chunk_bytes in (20 * 4 * 7, 1 << 13, 1 << 30):
        _same(kmeans(points, 20, init=init, spherical=spherical, chunk_bytes=chunk_bytes), expected)


def test_scores_take_no_more_than_the_chunk() -> None:
    for rows, chunk_bytes in ((1, 1), (3, 3 * 50 * 4), (3, 3 * 50 * 4 + 199)):
        assert assignment.Scorer(_points(50, 2), False, chunk_bytes).scores.shape == (rows, 50)
    assert assignment.Scorer(_points(50, 2), False, None).scores.shape[0] <= blocks.BLOCK_ROWS


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
    points = torch.cat([_points(500, 3), torch.zeros(500, 3)])
    watched = _Watched(tmp_path / "points", dtype=np.float32, mode="w+", shape=(1000, 3))
    watched[:] = points.numpy()
    _Watched.most = 0
    found = kmeans(watched, 12, init=torch.zeros(12, 3))
    assert 0 < _Watched.most <= 64
    _same(found, kmeans(points, 12, init=torch.zeros(12, 3)))
    monkeypatch.undo()
    _same(found, kmeans(points, 12, init=torch.zeros(12, 3)))


def test_a_start_may_be_of_any_kind() -> None:
    points = _points(100, 3)
    expected = kmeans(points, 4, init=points[:4])
    read_only = points[:4].numpy().copy()
    read_only.flags.writeable = False
    for start in (points[:4].double(), points[:4].numpy(), read_only, points[:4].numpy().astype(">f8")):
        found = kmeans(points, 4, init=start)
        _same(found, expected)
        assert np.array_equal(np.asarray(start, dtype=np.float32), points[:4].numpy())
    assert not kmeans(points, 4, init=points[:4].clone().requires_grad_()).centroids.requires_grad


def test_far_from_the_origin() -> None:
    places = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    near = places[torch.arange(400) % 4] + 0.02 * _points(400, 2)
    expected = kmeans(near, 4, init=places)
    found = kmeans(near + 1e4, 4, init=places + 1e4)
    assert torch.equal(found.assignments, expected.assignments)
    torch.testing.assert_close(found.centroids - 1e4, expected.centroids, rtol=0, atol=2e-3)
    assert found.inertia[-1] == pytest.approx(expected.inertia[-1], rel=0.02)
    spread = _points(1000, 3)
    _check(kmeans(spread + 1e4, 20), spread + 1e4, 20)
    _check(kmeans(spread + 1e4, 20, init="k-means++"), spread + 1e4, 20)


def test_huge_values() -> None:
    points = _clumps(90, 2, 3)
    expected = kmeans(points, 3, init=points[:3])
    _same(kmeans(points * 2.0**50, 3, init=points[:3] * 2.0**50, spherical=True), kmeans(points, 3, init=points[:3], spherical=True))
    found = kmeans(points * 2.0**50, 3, init=points[:3] * 2.0**50)
    assert torch.equal(found.assignments, expected.assignments)
    torch.testing.assert_close(found.centroids / 2.0**50, expected.centroids)
    # Too long to be squared in float32, but their directions are well defined.
    directions = kmeans(points * 2.0**100, 3, init=points[:3], spherical=True)
    _same(directions, kmeans(points, 3, init=points[:3], spherical=True))


def test_edges() -> None:
    points = _points(30, 3)
    _check(kmeans(points, 1), points, 1)
    torch.testing.assert_close(kmeans(points, 1).centroids[0], points.mean(dim=0))
    for spherical in (False, True):
        every = kmeans(points, 30, spherical=spherical)
        assert every.sizes.tolist() == [1] * 30
        assert every.inertia[-1] == pytest.approx(0, abs=1e-4)
        _check(every, points, 30, spherical=spherical)
        one = kmeans(points[:1], 1, spherical=spherical, iterations=3)
        assert (one.sizes.tolist(), one.n_empty, one.n_reassigned) == ([1], 0, (1, 0, 0))
    _check(kmeans(points[:, :1], 7), points[:, :1], 7)
    nothing = kmeans(torch.zeros(9, 4), 3, spherical=True)
    assert (nothing.n_empty, torch.isfinite(nothing.centroids).all().item()) == (2, True)


def test_autocast_has_no_effect() -> None:
    points = _points(300, 16)
    expected = kmeans(points, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _same(kmeans(points, 10), expected)


# ------------------------------------------------------------------------------------------------------------ k-means++


def test_plus_plus_starts_better_than_random_on_clumps() -> None:
    points = _clumps(1000, 4, 25)
    first = [[kmeans(points, 25, iterations=1, init=init, seed=seed).inertia[0] for seed in range(5)] for init in ("random", "k-means++")]
    assert max(first[1]) < 0.6 * min(first[0])


def test_plus_plus_draws_by_the_squared_distance() -> None:
    """From 0 the chances of 1 and 3 are 1 : 9, from 1 those of 0 and 3 are 1 : 4, from 3 those of 0 and 1 are 9 : 4."""
    pairs = {(0, 1): 0, (0, 3): 0, (1, 3): 0}
    source = blocks.PointSource(torch.tensor([[0.0], [1.0], [3.0]]), None, False)
    source.survey()
    for seed in range(600):
        drawn = initialization._plus_plus(source, 2, seed, None)[:, 0].tolist()
        pairs[tuple(sorted(map(int, drawn)))] += 1
    expected = [(1 / 10 + 1 / 5) / 3, (9 / 10 + 9 / 13) / 3, (4 / 5 + 4 / 13) / 3]
    for share, chance in zip(pairs.values(), expected, strict=True):
        assert share / 600 == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / 600))


def test_plus_plus_takes_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = 0
    original = blocks.PointSource.blocks

    def counted(self: Any) -> Iterator[Any]:
        nonlocal passes
        passes += 1
        return original(self)

    monkeypatch.setattr(blocks.PointSource, "blocks", counted)
    points, counts = _points(3000, 4), []
    for init in ("random", "k-means++"):
        passes = 0
        kmeans(points, 1000, iterations=1, init=init)
        counts.append(passes)
    assert counts[0] <= 4
    assert counts[1] - counts[0] <= 70, "about 8 + log(1000 / 8) / log(9 / 8)"


def test_plus_plus_with_fewer_places_than_clusters() -> None:
    places = _points(5, 3)
    points = places[torch.arange(40) % 5]
    for k in (5, 12, 40):
        found = kmeans(points, k, init="k-means++")
        assert found.n_empty == k - 5
        assert found.inertia[-1] == pytest.approx(0, abs=1e-4)
    for seed in range(10):
        # Each draw comes from a place of its own, so nothing is left to improve.
        assert kmeans(points, 5, init="k-means++", iterations=1, seed=seed).inertia[0] == pytest.approx(0, abs=1e-4)
    assert kmeans(torch.zeros(12, 2), 12, init="k-means++").n_empty == 11


# ---------------------------------------------------------------------------------------------------------- empty clusters


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_five_places_fill_five_clusters(init: str) -> None:
    places = _points(5, 3)
    for seed in range(5):
        found = kmeans(places[torch.arange(100) % 5], 10, init=init, seed=seed)
        assert found.n_empty == 5
        assert sorted(found.sizes.tolist()) == [0] * 5 + [20] * 5
        assert found.inertia[-1] == pytest.approx(0, abs=1e-4)


def test_five_directions_fill_five_clusters() -> None:
    """Rows of one direction and other lengths are equal points, also where float32 would round them apart."""
    generator = torch.Generator().manual_seed(0)
    for d in (2, 3, 16):
        directions = torch.randint(-9, 10, (5, d), generator=generator).float()
        points = directions[torch.arange(100) % 5] * torch.randint(1, 50, (100, 1), generator=generator)
        assert kmeans(points, 10, spherical=True).n_empty == 5


@pytest.mark.parametrize("k", [10, 41])
@pytest.mark.parametrize("init", ["random", "k-means++", "bad"])
def test_repeated_points_do_not_keep_clusters_empty(k: int, init: str) -> None:
    points = torch.cat([torch.full((60, 2), 0.5), _points(40, 2)])
    for seed in range(5):
        found = kmeans(points, k, init=torch.zeros(k, 2) if init == "bad" else init, seed=seed)
        assert found.n_empty == 0
        assert found.sizes.min() > 0
        _check(found, points, k)


@pytest.mark.parametrize("spherical", [False, True])
def test_none_stays_empty_in_hard_cases(spherical: bool) -> None:
    draw = np.random.default_rng(0)
    pools = {
        "grid": np.arange(4.0),
        "tiny beside large": np.array([0, 1e-30, 1, 1 + 1e-7, 1e-10, 1e-25, -1]),
        "a rounding apart": np.array([1, 1 + 1.2e-7, 1 + 2.4e-7, 1 - 6e-8]),
        "a rounding apart, far off": 1e4 + np.array([0, 1e-3, 2e-3, 3e-3, -1e-3]),
        "lost beside the mean": np.array([0, 1e-10, 2e-10, 1, 1, 1, 1]),
        "lost beside the largest": np.array([0, 1, 2, 1e8, 1e8 + 8]),
    }
    for case in range(90):
        pool = list(pools.values())[case % len(pools)]
        n, d = int(draw.integers(1, 30)), int(draw.integers(1, 4))
        k = int(draw.integers(1, n + 1))
        points = torch.from_numpy(draw.choice(pool, size=(n, d)).astype(np.float64 if case % 5 == 0 else np.float32))
        starts = [
            "random",
            "k-means++",
            points[torch.from_numpy(draw.integers(0, n, size=k))],
            torch.full((k, d), 7.0),
            9 * _points(k, d, case),
        ]
        iterations = int(draw.integers(1, 6))
        found = kmeans(points, k, iterations=iterations, spherical=spherical, init=starts[case % 7 % 5], seed=case)
        assert len(found.inertia) == iterations
        _check(found, points, k, spherical=spherical)


def test_empty_clusters_may_be_kept() -> None:
    points = _clumps(100, 2, 2)
    start = torch.cat([points[:2], torch.tensor([[90.0, 90.0], [-80.0, 70.0]])])
    kept = kmeans(points, 4, init=start, empty="keep")
    assert kept.n_empty == 2
    assert kept.sizes[2:].tolist() == [0, 0]
    assert torch.equal(kept.centroids[2:], start[2:])
    assert kmeans(points, 4, init=start).n_empty == 0


# ------------------------------------------------------------------------------------------------ donors of empty clusters


def test_the_farthest_point_becomes_the_centroid_and_takes_what_is_nearer() -> None:
    points = torch.tensor([[0.0], [1.0], [2.0], [7.0], [9.0], [100.0]])
    found = kmeans(points, 3, init=torch.tensor([[3.8], [50.0], [100.0]]), iterations=1)
    assert found.centroids.tolist() == [[1.0], [8.0], [100.0]]
    assert found.assignments.tolist() == [0, 0, 0, 1, 1, 2]


def test_several_empty_clusters_take_from_different_donors() -> None:
    # Three clusters of 12, 10 and 8 points, and three empty ones: each of the three gives once.
    rows = [torch.arange(n, dtype=torch.float32)[:, None] + 1000 * i for i, n in enumerate((12, 10, 8))]
    points, means = torch.cat(rows), torch.stack([r.mean(dim=0) for r in rows])

    def donors(n_empty: int) -> list[int]:
        found = kmeans(points, 3 + n_empty, init=torch.cat([means, torch.full((n_empty, 1), -1e5)]), iterations=1)
        assert found.n_empty == 0
        return [int(x // 1000) for x in found.centroids[3:, 0]]

    assert donors(3) == [0, 1, 2], "the largest gives first"
    assert donors(4) == [0, 1, 2, 0], "the first now counts as 6, the others as 5 and 4"


def test_a_cluster_of_equal_points_never_gives() -> None:
    points = torch.cat([torch.full((50, 2), 3.0), torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])])
    start = torch.tensor([[3.0, 3.0], [0.0, 1.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]])
    found = kmeans(points, 5, init=start, iterations=1)
    assert found.n_empty == 1
    assert found.assignments[:50].tolist() == [0] * 50
    assert sorted(found.assignments[50:].tolist()) == [1, 2, 3]
    assert found.centroids[4].tolist() == [9, 9], "what stays empty keeps its centroid"
    # A centroid that is not their mean makes them no better a donor.
    assert kmeans(points[:50], 2, init=torch.tensor([[1.0, 2.0], [0.0, 0.0]]), iterations=1).n_empty == 1


def test_a_donor_keeps_a_point_wherever_its_centroid_is() -> None:
    points, start = torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[-10.0], [200.0], [200.0]])
    found = kmeans(points, 3, init=start, iterations=1)
    assert found.centroids.tolist() == [[0], [1], [200]]
    assert (found.assignments.tolist(), found.n_empty) == ([0, 1, 1], 1)


def test_equal_sizes_give_in_an_order_of_the_seed() -> None:
    points = torch.cat([torch.arange(4.0)[:, None] + 100 * i for i in range(6)])
    start = torch.cat([torch.stack([part.mean(dim=0) for part in points.split(4)]), torch.tensor([[-1e4]])])
    donors, again = ([int(kmeans(points, 7, init=start, iterations=1, seed=s).centroids[6, 0]) // 100 for s in range(12)] for _ in range(2))
    assert donors == again
    assert len(set(donors)) > 1


def test_directions_and_arrays_are_filled_too() -> None:
    points = torch.tensor([[1.0, 0.0], [5.0, 0.1], [0.0, 3.0], [0.1, 4.0]])
    for given in (points, points.numpy()):
        found = kmeans(given, 2, init=torch.tensor([[1.0, 0.0], [0.0, -1.0]]), spherical=True, iterations=1)
        assert (found.assignments.tolist(), found.n_empty) == ([0, 0, 1, 1], 0)


# ---------------------------------------------------------------------------------------------------------- several starts


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_the_best_of_several_starts(init: str) -> None:
    points = _points(300, 3)
    each = [kmeans(points, 12, init=init, iterations=5, seed=randomness.seed_from(7, start)) for start in range(4)]
    best = min(each, key=lambda found: found.inertia[-1])
    assert len({found.inertia[-1] for found in each}) == 4
    _same(kmeans(points, 12, init=init, iterations=5, n_init=4, seed=7), best, rtol=0, atol=0)


def test_given_centroids_are_one_start() -> None:
    points = _points(100, 3)
    _same(kmeans(points, 4, init=points[:4], n_init=3), kmeans(points, 4, init=points[:4]))


# --------------------------------------------------------------------------------------------------------------- nearest


@pytest.mark.parametrize("spherical", [False, True])
def test_nearest_equals_the_naive_loop(spherical: bool) -> None:
    points, centroids = _points(60, 3), _points(7, 3, seed=1)
    assignments, distances = nearest(points, centroids, spherical=spherical)
    expected, far = reference.nearest(points.numpy(), centroids.numpy(), spherical)
    assert assignments.tolist() == expected.tolist()
    np.testing.assert_allclose(distances.numpy(), far, rtol=1e-4, atol=1e-6)
    for chunk_bytes in (1, 100):
        assert torch.equal(nearest(points, centroids, spherical=spherical, chunk_bytes=chunk_bytes)[0], assignments)
    assert torch.equal(nearest(points.numpy(), centroids, spherical=spherical)[0], assignments)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_nearest_agrees_with_kmeans(spherical: bool, offset: float) -> None:
    points = _clumps(500, 3, 9) + offset
    found = kmeans(points, 9, spherical=spherical, init="k-means++")
    assignments, distances = nearest(points, found.centroids, spherical=spherical)
    if not (spherical and offset):  # seen from there all directions are the same to 1e-7
        assert torch.equal(assignments, found.assignments)
    assert (distances >= 0).all()
    if offset == 0:
        assert float(distances.sum()) == pytest.approx(found.inertia[-1], rel=1e-3)


def test_nearest_is_accurate_with_one_far_centroid() -> None:
    points, centroids = _points(200, 2), torch.cat([_points(10, 2, seed=1), torch.full((1, 2), 1e7)])
    assert nearest(points, centroids)[0].tolist() == reference.nearest(points.numpy(), centroids.numpy())[0].tolist()


def test_nearest_has_no_gradient_and_changes_nothing() -> None:
    points, centroids = _points(20, 2), _points(3, 2, seed=1).requires_grad_()
    before = centroids.detach().clone()
    assert not nearest(points, centroids)[1].requires_grad
    assert torch.equal(centroids, before)
    assert nearest(points[:0], centroids)[0].shape == (0,)


# ---------------------------------------------------------------------------------------------------------------- errors


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
        kmeans(_points(n, 3), k, **settings)


def test_refuses_unknown_options() -> None:
    """Called directly, since the type checks in tests would reject these words earlier."""
    with pytest.raises(ValueError, match="empty 'drop' must be 'split' or 'keep'"):
        module._check_settings(2, 1, 1, "drop", 0.0)
    source = blocks.PointSource(_points(5, 3), None, False)
    with pytest.raises(ValueError, match=r"init 'first' must be 'random', 'k-means\+\+' or a tensor of shape \(2, 3\)"):
        initialization.initial_centroids(source, 2, "first", 0, None)


@pytest.mark.parametrize("shape", [(5,), (5, 2, 2)])
def test_refuses_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"points must be \(n, d\), got shape"):
        kmeans(torch.zeros(shape), 2)


@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_refuses_points_that_are_not_finite(bad: float, spherical: bool) -> None:
    points = _points(9000, 2)
    points[8500, 1] = bad
    with pytest.raises(ValueError, match="points contain a value that is not finite"):
        kmeans(points, 3, spherical=spherical)


@pytest.mark.parametrize("value", [2e19, 8e18, 1.5e38])
def test_refuses_points_too_large_to_be_squared(value: float) -> None:
    with pytest.raises(ValueError, match="too large to be squared"):
        kmeans(torch.cat([_points(8, 4), torch.full((1, 4), value)]), 3)


# ----------------------------------------------------------------------------------------------------------------- ranks


def _of_parts(points: Tensor, ends: list[int], calls: list[dict[str, Any]]) -> list[Clustering]:
    from selfcluster import distributed

    rank = distributed.rank()
    part = points[ends[rank] : ends[rank + 1]]
    return [kmeans(part, **call) for call in calls]


def _check_ranks(points: Tensor, ends: list[int], calls: list[dict[str, Any]], **close: float) -> None:
    """Check that the ranks together find what one process finds on the joined rows."""
    results = on_ranks(_of_parts, points, ends, calls, n=len(ends) - 1)
    for i, call in enumerate(calls):
        found = [result[i] for result in results]
        for other in found[1:]:
            assert torch.equal(other.centroids, found[0].centroids)
            assert torch.equal(other.sizes, found[0].sizes)
            assert (other.inertia, other.n_reassigned, other.n_empty) == (found[0].inertia, found[0].n_reassigned, found[0].n_empty)
        joined = Clustering(
            found[0].centroids,
            torch.cat([f.assignments for f in found]),
            found[0].sizes,
            found[0].inertia,
            found[0].n_reassigned,
            found[0].n_empty,
        )
        _same(joined, kmeans(points, **call), **close)


@pytest.mark.parametrize("ends", [[0, 100, 200], [0, 199, 200], [0, 0, 200], [0, 60, 61, 200], [0, 0, 90, 200]])
def test_ranks_equal_one_on_the_joined_rows(ends: list[int]) -> None:
    points = _points(200, 3, offset=30.0 if ends[1] == 60 else 0.0)
    calls: list[dict[str, Any]] = [
        {"k": 7, "iterations": 8},
        {"k": 7, "iterations": 8, "spherical": True},
        {"k": 40, "iterations": 5, "init": "k-means++", "seed": 3},
        {"k": 12, "iterations": 5, "init": points[:12], "tolerance": 0.01},
        {"k": 12, "iterations": 5, "n_init": 3},
        {"k": 1},
        {"k": 200, "iterations": 1},
    ]
    _check_ranks(points, ends, calls, rtol=1e-5, atol=1e-5)
    _check_ranks(points.double(), ends, calls[:3])


@pytest.mark.parametrize("ends", [[0, 100, 200], [0, 200, 200], [0, 40, 90, 200]])
def test_ranks_fill_empty_clusters_alike(ends: list[int]) -> None:
    """Points are sorted, so that some ranks have no point of the donor cluster."""
    points = _points(200, 2, dtype=torch.float64)
    points = points[points[:, 0].argsort()]
    outside = torch.cat([points[:5], 50 + _points(15, 2, seed=1, dtype=torch.float64)])
    calls: list[dict[str, Any]] = [
        {"k": 20, "iterations": 4, "init": outside},
        {"k": 20, "iterations": 1, "init": outside},
        {"k": 20, "iterations": 3, "init": outside, "spherical": True},
        {"k": 20, "iterations": 4, "init": outside, "empty": "keep"},
    ]
    _check_ranks(points, ends, calls)


def test_ranks_leave_none_empty() -> None:
    places = _points(5, 3)
    repeated, half_equal = places[torch.arange(100) % 5], torch.cat([torch.full((60, 3), 0.5), _points(40, 3)])
    for points, k, n_empty in ((repeated, 10, 5), (half_equal, 10, 0), (half_equal, 41, 0)):
        found = [result for (result,) in on_ranks(_of_parts, points, [0, 55, 100], [{"k": k}])]
        assert [f.n_empty for f in found] == [n_empty] * 2
        assert torch.equal(torch.bincount(torch.cat([f.assignments for f in found]), minlength=k), found[0].sizes)


def _messages(calls: list[list[tuple[Any, int, dict[str, Any]]]]) -> list[str]:
    from selfcluster import distributed

    messages = []
    for call in calls:
        points, k, settings = call[distributed.rank()]
        try:
            kmeans(points, k, **settings)
            messages.append("none")
        except ValueError as error:
            messages.append(str(error))
    return messages


def test_ranks_raise_together() -> None:
    points, start = _points(20, 3), _points(4, 3)
    bad = points.clone()
    bad[3, 1] = math.nan
    alike = (points, 4, {})
    cases: list[tuple[tuple[Any, int, dict[str, Any]], tuple[Any, int, dict[str, Any]], str]] = [
        (alike, (points, 5, {}), "k=5"),
        (alike, (points, 0, {}), "k=0"),
        (alike, (points[:, :2], 4, {}), "rows of shape (2,)"),
        (alike, (points[0], 4, {}), "rows of shape ()"),
        (alike, (points.double(), 4, {}), "torch.float64"),
        (alike, (points, 4, {"seed": 1}), "seed=1"),
        (alike, (points, 4, {"iterations": 3}), "iterations=3"),
        (alike, (points, 4, {"tolerance": 0.5}), "tolerance=0.5"),
        (alike, (points, 4, {"spherical": True}), "spherical=True"),
        (alike, (points, 4, {"empty": "keep"}), "empty=keep"),
        (alike, (points, 4, {"init": "k-means++"}), "init=k-means++"),
        (alike, (points, 4, {"init": start}), "init=(4, 3)"),
        (alike, (points, 4, {"n_init": 2}), "n_init=2"),
        ((points, 4, {"init": start}), (points, 4, {"init": points[:4]}), "init=(4, 3)"),
        (alike, (bad, 4, {}), "points contain a value that is not finite"),
        ((points, 41, {}), (points, 41, {}), "40 points are fewer than k = 41 clusters"),
        ((points[:0], 1, {}), (points[:0], 1, {}), "0 points are fewer than k = 1"),
        ((points, 0, {}), (points, 0, {}), "k must be at least 1, got 0"),
        ((points, 40, {}), (points, 40, {}), "none"),
    ]
    first, second = on_ranks(_messages, [[a, b] for a, b, _ in cases])
    for (_, _, message), here, there in zip(cases, first, second, strict=True):
        assert message in here
        assert here == there


def _alone(points: Tensor) -> Clustering:
    from selfcluster import distributed

    with distributed.alone():
        return kmeans(points + distributed.n_ranks(), 3)


def test_alone_each_rank_clusters_its_own_points() -> None:
    points = _points(50, 2)
    for found in on_ranks(_alone, points):
        _same(found, kmeans(points + 1, 3))
