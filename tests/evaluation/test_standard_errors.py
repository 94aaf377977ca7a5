from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from selfcluster.evaluation.clusters import figures_of
from selfcluster.evaluation.standard_errors import mean_and_error, resampled_tables, standard_errors


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_of_a_share_it_is_the_binomial_one(share: float) -> None:
    right = np.random.default_rng(0).random(2000) < share
    analytic = np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert standard_errors(right[:, None].astype(float))[0] == pytest.approx(analytic, rel=0.08)


def test_every_column_has_its_own_and_a_constant_has_none() -> None:
    values = np.random.default_rng(0).normal(size=(400, 2)) * [1.0, 10.0]
    errors = standard_errors(np.column_stack([values, np.ones(400)]))
    assert errors[:2] == pytest.approx(values.std(axis=0) / 20, rel=0.08)
    assert errors[2] == pytest.approx(0, abs=1e-12)


def test_it_is_seeded() -> None:
    values = np.random.default_rng(0).random((50, 1))
    assert standard_errors(values, seed=1) == standard_errors(values, seed=1)
    assert standard_errors(values, seed=1) != standard_errors(values, seed=2)


def test_a_figure_comes_with_its_error() -> None:
    figures = dict(mean_and_error("eval/x", [True, False, True, True]))
    assert figures.keys() == {"eval/x", "eval/x_se"}
    assert figures["eval/x"] == 0.75


def test_images_are_drawn_from_each_cell_as_often_as_they_are_there() -> None:
    tables = list(resampled_tables(np.array([0, 0, 0, 1, 1, 7]), np.array([5, 5, 6, 6, 6, 6]), draws=2000))
    assert {int(table.sum()) for table in tables} == {6}
    assert np.mean(tables, axis=0) == pytest.approx(np.array([[2, 1], [0, 2], [0, 1]]), abs=0.1)
    assert max(int(table[1, 0]) for table in tables) == 0


def test_the_error_of_a_partition_is_that_of_drawing_images_one_by_one() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 4, 500)
    right = np.where(rng.random(500) < 0.7, left, rng.integers(0, 4, 500))
    naive = [adjusted_rand_score(left[i], right[i]) for i in rng.integers(0, 500, (400, 500))]
    ours = [figures_of(drawn)["cluster/ari"] for drawn in resampled_tables(left, right, draws=400)]
    assert np.std(ours) == pytest.approx(np.std(naive), rel=0.15)
    assert np.mean(ours) == pytest.approx(np.mean(naive), abs=4 * np.std(naive) / 400**0.5)
