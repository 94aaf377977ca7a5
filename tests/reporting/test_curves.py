"""Curves show their values."""

from __future__ import annotations

import math
import re

import pytest

from selfcluster.formatting import figure
from selfcluster.reporting.curves import Curve, curves, series, thinned
from tests import tiny


def test_a_series_skips_missing_and_not_finite_values() -> None:
    rows = [{"step": 1, "a": 1.0}, {"step": 2}, {"step": 3, "a": math.nan}, {"step": 4, "a": 4.0}]
    assert series(rows, "a") == ([1, 4], [1.0, 4.0])


def test_thinning_keeps_the_mean_and_the_last_step() -> None:
    steps, values = list(range(1, 1001)), [float(i % 7) for i in range(1000)]
    few_steps, few_values = thinned(steps, values, 240)
    assert len(few_steps) <= 240
    assert few_steps[-1] == 1000
    assert sum(few_values) / len(few_values) == pytest.approx(sum(values) / 1000)
    assert thinned(steps[:5], values[:5]) == (steps[:5], values[:5])
    assert thinned([], []) == ([], [])


def test_the_path_goes_through_the_values() -> None:
    curve = Curve("Loss", "", (0, 5, 10), (4.0, 2.0, 3.0), line=5.0, line_name="ln K")
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", curve.path(300, 90)) if pair]
    assert points == [(0, 30), (150, 90), (300, 60)]
    assert curve.height(5.0) == 1
    assert curve.description() == "Loss: from 4.00 to 3.00 over steps 0 to 10; ln K is 5.00"


def test_a_single_value_and_a_flat_curve_are_drawn_too() -> None:
    assert Curve("x", "", (3,), (1.0,)).path(300, 90) == "M0 45.0L300.0 45.0"
    assert Curve("x", "", (3, 4), (1.0, 1.0)).path(300, 90) == "M0.0 45.0L300.0 45.0"


def test_there_is_a_curve_for_each_metric_of_the_run() -> None:
    rows = [{"step": i, "epoch": 0, "train/loss": 3.0 - i / 10, "train/lr": 0.1, "unknown/metric": 1.0} for i in range(5)]
    drawn = curves(rows, tiny.config())
    assert [curve.title for curve in drawn] == ["Loss", "Learning rate"]
    assert drawn[0].line == pytest.approx(math.log(8))
    assert curves([], tiny.config()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.000"), (0.12345, "0.123"), (1.2345, "1.23"), (12.345, "12.3"), (1234.5, "1,234"), (2.5e-5, "2.5e-05"), (-3.14159, "-3.14")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text
