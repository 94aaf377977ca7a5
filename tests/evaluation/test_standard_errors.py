from __future__ import annotations

import numpy as np
import pytest

from selfcluster.evaluation.standard_errors import mean_and_error


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_error_of_a_share_is_the_binomial_one(share: float) -> None:
    correct = np.random.default_rng(0).random(2000) < share
    figures = dict(mean_and_error("eval/x", correct))
    assert figures == {"eval/x": correct.mean(), "eval/x_se": pytest.approx(np.sqrt(correct.mean() * (1 - correct.mean()) / 2000))}


def test_the_error_is_the_one_that_the_bootstrap_converges_to() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=30)
    resampled = values[rng.integers(0, 30, (4000, 30))].mean(axis=1)
    assert dict(mean_and_error("eval/x", values))["eval/x_se"] == pytest.approx(resampled.std(), rel=0.05)


def test_equal_values_and_a_single_one_have_no_error() -> None:
    assert dict(mean_and_error("eval/x", [0.5] * 7))["eval/x_se"] == 0
    assert dict(mean_and_error("eval/x", [0.3])) == {"eval/x": 0.3, "eval/x_se": 0}
