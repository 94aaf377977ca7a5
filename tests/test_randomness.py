from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from selfcluster import randomness


def test_mixing_is_splitmix64() -> None:
    # The first outputs of the reference implementation for seed 0.
    steps = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(x) for x in randomness._mix(steps)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_draws_are_a_pure_function_of_the_key() -> None:
    first = randomness.uniform(7, 3, np.arange(50), n=4)
    np.random.seed(1)
    torch.manual_seed(1)
    assert np.array_equal(first, randomness.uniform(7, 3, np.arange(50), n=4))
    assert np.array_equal(first[31], randomness.uniform(7, 3, 31, n=4)), "the other keys of a call must not matter"
    assert np.array_equal(first[:, :2], randomness.uniform(7, 3, np.arange(50), n=2)), "later draws must not change earlier ones"


def test_keys_are_broadcast() -> None:
    both = randomness.uniform(1, np.arange(3), np.arange(2)[:, None], n=5)
    assert both.shape == (2, 3, 5)
    assert np.array_equal(both[1, 2], randomness.uniform(1, 2, 1, n=5))


@pytest.mark.parametrize("part", range(5))
def test_each_part_of_the_key_changes_the_draws(part: int) -> None:
    key = [5, 2, 100, 0, 1]
    other = list(key)
    other[part] += 1
    assert not np.intersect1d(randomness.uniform(*key, n=64), randomness.uniform(*other, n=64)).size


def test_order_and_sign_of_parts_matter() -> None:
    assert randomness.seed_from(1, 2) != randomness.seed_from(2, 1)
    assert randomness.seed_from(1) != randomness.seed_from(-1)
    assert randomness.seed_from(0) != randomness.seed_from(0, 0)


def test_draws_are_uniform() -> None:
    draws = randomness.uniform(0, 0, np.arange(20000), n=5)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 4 * np.sqrt(1 / 12 / draws.size)
    for column in draws.T:
        counts = np.histogram(column, bins=64, range=(0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-4
        assert stats.kstest(column, "uniform").pvalue > 1e-4


def test_neighbors_are_not_correlated() -> None:
    draws = randomness.uniform(0, 0, np.arange(10000), 0, np.arange(8)[:, None], n=6)
    limit = 4 / np.sqrt(9000 * 8 * 5)
    for left, right in ((draws[:, :-1], draws[:, 1:]), (draws[:-1], draws[1:]), (draws[..., :-1], draws[..., 1:])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < limit


def test_seed_fits_generators() -> None:
    seeds = [randomness.seed_from(0, i) for i in range(1000)]
    assert len(set(seeds)) == 1000
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


def test_permutation_contains_every_number_once_and_depends_on_its_key() -> None:
    order = randomness.permutation(1000, 3, 4)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(order, randomness.permutation(1000, 3, 4))
    assert not np.array_equal(order, randomness.permutation(1000, 3, 5))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 4 / np.sqrt(1000)


def test_dropout_depends_on_its_key() -> None:
    randomness.reseed(9)
    first = torch.rand(5)
    randomness.reseed(9)
    assert torch.equal(torch.rand(5), first)
