"""The rules that stop training and that the page reports by."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from selfcluster.training.health import Health, Problem, falls, ln_k, problem_of

LN_K = math.log(100)
HEALTHY = Health(loss=0.5 * LN_K, loss_falls=False, ln_k=LN_K, code_entropy=0.6, mean_embedding=0.3)


def _problem(**changed: Any) -> Problem | None:
    return problem_of(dataclasses.replace(HEALTHY, **changed))


def test_a_healthy_run_has_no_problem() -> None:
    assert _problem() is None
    assert _problem(code_entropy=None, mean_embedding=None) is None


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (dict(code_entropy=0.99, mean_embedding=0.96), "same embedding"),
        (dict(code_entropy=0.99, mean_embedding=0.96, loss=LN_K), "same embedding"),
        (dict(code_entropy=None, loss=0.995 * LN_K), "stuck loss"),
        (dict(code_entropy=None, loss=1.5 * LN_K), "stuck loss"),
        (dict(code_entropy=0.99, loss=1.005 * LN_K), "uniform codes"),
        (dict(code_entropy=0.4, loss=1.2 * LN_K), "sharp codes"),
    ],
)
def test_each_problem_is_found(changed: dict[str, Any], problem: Problem) -> None:
    assert _problem(**changed) == problem
    assert _problem(**changed, loss_falls=True) == ("same embedding" if problem == "same embedding" else None)


@pytest.mark.parametrize(
    "changed",
    [
        dict(mean_embedding=0.99),
        dict(code_entropy=0.99),
        dict(code_entropy=None, mean_embedding=0.99),
        dict(code_entropy=0.6, loss=1.2 * LN_K),
    ],
    ids=str,
)
def test_one_metric_alone_is_no_problem(changed: dict[str, Any]) -> None:
    assert _problem(**changed) is None


def test_a_loss_falls_if_its_later_half_is_lower() -> None:
    assert falls([2.0, 2.0, 1.9, 1.9])
    assert not falls([2.0, 2.0, 1.995, 1.995])
    assert not falls([1.0, 2.0])
    assert falls([1.0])


def test_ln_k_is_the_mean_over_the_heads() -> None:
    assert ln_k((8,)) == pytest.approx(math.log(8))
    assert ln_k((8, 6, 8)) == pytest.approx((2 * math.log(8) + math.log(6)) / 3)
