"""The verdict follows from the figures alone."""

from __future__ import annotations

import math
from typing import Any

import pytest

from selfcluster.reporting.verdict import at_the_end, judge
from tests import tiny

LN_K = math.log(8)
EPOCHS = 40
CONFIG = tiny.config(epochs=EPOCHS)


def _rows(n: int = 50, **metrics: Any) -> list[dict[str, float]]:
    """Rows of a run that went well, over all epochs, but for the metrics that are given as functions of progress in [0, 1]."""
    healthy: dict[str, Any] = {
        "train/loss": lambda t: LN_K * (1.05 - 0.5 * min(1, 2 * t)),
        "collapse/code_entropy": lambda t: 0.9 - 0.5 * t,
        "collapse/mean_embedding": lambda t: 0.6 - 0.4 * t,
        "collapse/prototypes_used": lambda t: 7.5,
        "collapse/rankme": lambda t: 20,
        "train/data_wait": lambda t: 0.05,
    }
    chosen = {name: of for name, of in {**healthy, **metrics}.items() if of is not None}
    return [
        {"step": 2 * i + 2, "epoch": EPOCHS * i // n, **{name: float(of(i / (n - 1))) for name, of in chosen.items()}} for i in range(n)
    ]


def _texts(verdict: Any, means: str) -> str:
    return " ".join(sign.text for sign in verdict.signs if sign.means == means)


def test_a_run_that_went_well_is_healthy() -> None:
    verdict = judge(_rows(), CONFIG)
    assert verdict.state == "healthy"
    assert {sign.means for sign in verdict.signs} == {"good"}
    assert f"below ln K = {LN_K:.2f}" in _texts(verdict, "good")


def test_without_figures_nothing_is_known() -> None:
    assert judge([], CONFIG).state == "unknown"
    assert judge([{"step": 1, "epoch": 0, "train/loss": math.nan}], CONFIG).state == "unknown"


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"collapse/mean_embedding": lambda t: 0.5 + 0.5 * t}, "one embedding"),
        ({"collapse/mean_embedding": lambda t: 0.99, "collapse/code_entropy": lambda t: 1.0}, "their codes are uniform"),
        ({"collapse/rankme": lambda t: 1.2}, "effective rank of 1.2"),
        ({"collapse/prototypes_used": lambda t: 1.1}, "Only 1 of 8 prototypes"),
        ({"cluster/largest_share": lambda t: 0.9}, "holds 90.0 % of the images"),
    ],
)
def test_signs_of_a_collapse(metrics: dict[str, Any], says: str) -> None:
    verdict = judge(_rows(**metrics), CONFIG)
    assert verdict.state == "collapsing"
    assert says in _texts(verdict, "collapse")
    assert verdict.signs[0].means == "collapse"


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"train/loss": lambda t: LN_K * (1.02 - 0.01 * t)}, "hardly left ln K"),
        ({"train/loss": lambda t: LN_K * (1.05 - 0.6 * t)}, "still falls"),
        ({"collapse/code_entropy": lambda t: 0.99}, "nearly uniform"),
        ({"collapse/code_entropy": None, "cluster/nmi_previous": lambda t: 0.3}, "still change from epoch to epoch"),
    ],
)
def test_signs_of_training_that_has_not_finished(metrics: dict[str, Any], says: str) -> None:
    verdict = judge(_rows(**metrics), CONFIG)
    assert verdict.state == "undertrained"
    assert says in _texts(verdict, "unfinished")


def test_a_run_that_was_stopped_has_not_finished() -> None:
    assert "after 40 of 90 epochs" in _texts(judge(_rows(), tiny.config(epochs=90)), "unfinished")
    assert "after 100 of 300 steps" in _texts(judge(_rows(), tiny.config(epochs=90, max_steps=300)), "unfinished")
    # The last row may stand up to log_steps before the end.
    assert judge(_rows(), tiny.config(epochs=90, max_steps=101)).state == "healthy"


@pytest.mark.parametrize(
    ("epochs", "steps", "state"), [(1, 100, "undertrained"), (9, 9999, "undertrained"), (9, 10_000, "healthy"), (10, 100, "healthy")]
)
def test_few_passes_are_too_few_unless_they_are_many_steps(epochs: int, steps: int, state: str) -> None:
    rows = [{**row, "step": steps * row["step"] / 100, "epoch": epochs * i // 50} for i, row in enumerate(_rows())]
    verdict = judge(rows, tiny.config(epochs=epochs))
    assert verdict.state == state
    assert ("No image was seen more than" in _texts(verdict, "unfinished")) == (state == "undertrained")


def test_a_collapse_counts_more_than_what_is_unfinished() -> None:
    verdict = judge(_rows(**{"collapse/rankme": lambda t: 1.0}), tiny.config(epochs=90))
    assert verdict.state == "collapsing"
    assert _texts(verdict, "unfinished")


@pytest.mark.parametrize(
    ("raw", "state", "says"),
    [
        (0.4, "healthy", "of 50.0 % of the images, better than with raw pixels (40.0 %)."),
        (0.2, "healthy", "better than with the untrained encoder (30.0 %)."),
        (0.6, "undertrained", "no better than with raw pixels (60.0 %)."),
    ],
)
def test_the_floors_count_where_they_were_measured(raw: float, state: str, says: str) -> None:
    metric = "eval/knn_top1_k20"
    figures = {"raw pixels": {metric: raw}, "untrained encoder": {metric: 0.3}, "trained encoder": {metric: 0.5}, "another": {metric: 0.9}}
    verdict = judge(_rows(), CONFIG, figures)
    assert verdict.state == state
    assert says in " ".join(sign.text for sign in verdict.signs)


def test_waiting_for_images_is_a_note_that_decides_nothing() -> None:
    verdict = judge(_rows(**{"train/data_wait": lambda t: 0.6}), CONFIG)
    assert verdict.state == "healthy"
    assert "waits 60.0 %" in _texts(verdict, "note")
    assert verdict.signs[-1].means == "note"


def test_the_verdict_looks_at_the_end_of_training() -> None:
    rows = _rows(**{"collapse/mean_embedding": lambda t: 1.0 if t < 0.8 else 0.1})
    assert at_the_end(rows, "collapse/mean_embedding") == pytest.approx(0.1)
    assert judge(rows, CONFIG).state == "healthy"
    assert at_the_end(rows, "no/such") is None


def test_a_run_that_has_really_been_trained_gets_a_verdict() -> None:
    from selfcluster.training import loop

    t, log = tiny.training(), tiny.Silent()
    loop.fit(t, log, None)
    assert judge(log.rows, t.config).state in ("healthy", "undertrained", "collapsing")


def test_epochs_that_end_before_max_steps_are_the_end() -> None:
    config = tiny.config(epochs=EPOCHS, max_steps=100_000)
    assert judge(_rows(), config).state == "healthy"
    assert "Training stopped" in _texts(judge(_rows()[:25], config), "unfinished")


def test_two_prototypes_that_are_both_used_are_no_collapse() -> None:
    verdict = judge(_rows(**{"collapse/prototypes_used": lambda t: 1.98}), tiny.config(epochs=EPOCHS, n_prototypes=2))
    assert "prototypes are in use" not in _texts(verdict, "collapse")
