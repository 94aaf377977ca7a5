"""The rules that stop training and that the page reports by."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from selfcluster.training.health import COLLAPSED, Health, Problem, falls, ln_k, problems

LN_K = math.log(100)
HEALTHY = Health(
    loss=0.5 * LN_K,
    loss_falls=False,
    ln_k=LN_K,
    n_prototypes=100,
    code_entropy=0.6,
    mean_embedding=0.3,
    rank=40.0,
    prototypes_used=80.0,
    largest_cluster=0.1,
)


def _found(**changed: Any) -> list[Problem]:
    return problems(dataclasses.replace(HEALTHY, **changed))


def test_a_healthy_run_has_no_problem() -> None:
    assert _found() == []
    assert _found(code_entropy=None, mean_embedding=None, rank=None, prototypes_used=None, largest_cluster=None) == []


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (dict(code_entropy=0.99, mean_embedding=0.96), "same embedding"),
        (dict(largest_cluster=0.91), "one cluster"),
        (dict(rank=1.9), "one direction"),
        (dict(prototypes_used=1.9), "few prototypes"),
        (dict(prototypes_used=25.0, n_prototypes=3000), "few prototypes"),
        (dict(code_entropy=None, loss=0.995 * LN_K), "stuck loss"),
        (dict(code_entropy=None, loss=1.5 * LN_K), "stuck loss"),
        (dict(code_entropy=0.99, loss=1.005 * LN_K), "uniform codes"),
        (dict(code_entropy=0.4, loss=1.2 * LN_K), "sharp codes"),
    ],
)
def test_each_problem_is_found(changed: dict[str, Any], problem: Problem) -> None:
    assert _found(**changed) == [problem]
    stops_a_falling_loss_too = problem in ("same embedding", "one cluster")
    assert _found(**changed, loss_falls=True) == ([problem] if stops_a_falling_loss_too else [])


@pytest.mark.parametrize(
    "changed",
    [
        dict(mean_embedding=0.99),
        dict(code_entropy=0.99),
        dict(code_entropy=None, mean_embedding=0.99),
        dict(code_entropy=0.6, loss=1.2 * LN_K),
        dict(prototypes_used=1.5, n_prototypes=2),
        dict(largest_cluster=0.95, n_prototypes=2),
    ],
    ids=str,
)
def test_one_metric_alone_is_no_problem(changed: dict[str, Any]) -> None:
    assert _found(**changed) == []


def test_collapses_come_first() -> None:
    found = _found(code_entropy=None, loss=LN_K, rank=1.0)
    assert found == ["one direction", "stuck loss"]
    assert [problem in COLLAPSED for problem in found] == [True, False]


def test_a_loss_falls_if_its_later_half_is_lower() -> None:
    assert falls([2.0, 2.0, 1.9, 1.9])
    assert not falls([2.0, 2.0, 1.995, 1.995])
    assert not falls([1.0, 2.0])
    assert falls([1.0]), "nothing speaks against it"


def test_ln_k_is_the_mean_over_the_heads() -> None:
    assert ln_k((8,)) == pytest.approx(math.log(8))
    assert ln_k((8, 6, 8)) == pytest.approx((2 * math.log(8) + math.log(6)) / 3)
