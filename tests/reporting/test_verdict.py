"""The verdict follows from the metrics alone, and agrees with what stops training."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from selfcluster.data.sources import open_data
from selfcluster.errors import CollapseError
from selfcluster.methods.base import Codes, PseudoLabels
from selfcluster.models.model import Outputs
from selfcluster.reporting.verdict import at_the_end, judge
from selfcluster.settings.config import DataSettings
from selfcluster.training import loop
from selfcluster.training.collapse import Watch
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
        ({"collapse/mean_embedding": lambda t: 0.99, "collapse/code_entropy": lambda t: 1.0}, "and the codes are uniform"),
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
        ({"train/loss": lambda t: LN_K * (1.02 - 0.01 * t), "collapse/code_entropy": lambda t: 0.7}, "hardly left ln K"),
        ({"train/loss": lambda t: LN_K * (1.05 - 0.6 * t)}, "still falls"),
        ({"collapse/code_entropy": lambda t: 0.99}, "nearly uniform"),
        ({"collapse/rankme": lambda t: 1.2}, "effective rank of 1.2"),
        ({"collapse/code_entropy": None, "cluster/nmi_previous": lambda t: 0.3}, "still change from epoch to epoch"),
    ],
)
def test_signs_of_training_that_has_not_finished(metrics: dict[str, Any], says: str) -> None:
    verdict = judge(_rows(**metrics), CONFIG)
    assert verdict.state == "undertrained"
    assert says in _texts(verdict, "unfinished")


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"train/loss": lambda t: LN_K * 1.02, "collapse/code_entropy": lambda t: 0.4}, "though the codes are sharp"),
        ({"train/loss": lambda t: LN_K, "collapse/code_entropy": lambda t: 0.99}, "the codes are uniform"),
        ({"train/loss": lambda t: LN_K, "collapse/code_entropy": None}, "that of a network that tells no images apart"),
    ],
)
def test_signs_of_a_run_that_does_not_learn(metrics: dict[str, Any], says: str) -> None:
    verdict = judge(_rows(**metrics), CONFIG)
    assert verdict.state == "not learning"
    assert says in _texts(verdict, "not learning")
    assert verdict.signs[0].means == "not learning"
    assert "hardly left" not in _texts(verdict, "unfinished")


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"collapse/mean_embedding": lambda t: 0.97}, "close together"),
        ({"cluster/largest_share": lambda t: 0.6}, "contains 60.0 % of the images"),
        ({"train/data_wait": lambda t: 0.6}, "waits 60.0 %"),
    ],
)
def test_a_note_decides_nothing(metrics: dict[str, Any], says: str) -> None:
    verdict = judge(_rows(**metrics), CONFIG)
    assert verdict.state == "healthy"
    assert says in _texts(verdict, "note")
    assert verdict.signs[-1].means == "note"


def test_a_run_that_was_stopped_has_not_finished() -> None:
    assert "after 40 of 90 epochs" in _texts(judge(_rows(), tiny.config(epochs=90)), "unfinished")
    assert "after 100 of 300 steps" in _texts(judge(_rows(), tiny.config(epochs=90, max_steps=300)), "unfinished")
    # The last row may be up to log_steps before the end.
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
    metrics = {"collapse/mean_embedding": lambda t: 0.99, "collapse/code_entropy": lambda t: 1.0}
    verdict = judge(_rows(**metrics), tiny.config(epochs=90))
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


@pytest.mark.parametrize(
    ("knn", "clusters", "says"),
    [
        (0.9, 0.3, "Nearest neighbors find the class of 50.0 % of the images, no better than with the pretrained encoder (90.0 %)."),
        (0.3, 0.9, "Clusters find the class of 40.0 % of the images, no better than with the pretrained encoder (90.0 %)."),
    ],
)
def test_a_pretrained_encoder_that_is_better_is_named_with_what_to_do(knn: float, clusters: float, says: str) -> None:
    figures = {
        "raw pixels": {"eval/knn_top1_k12": 0.1, "cluster/accuracy": 0.1},
        "pretrained encoder": {"eval/knn_top1_k12": knn, "cluster/accuracy": clusters},
        "trained encoder": {"eval/knn_top1_k12": 0.5, "eval/knn_top1_k12_se": 0.1, "cluster/accuracy": 0.4},
    }
    verdict = judge(_rows(), CONFIG, figures)
    assert verdict.state == "undertrained"
    assert _texts(verdict, "unfinished") == says
    assert "better than with the pretrained encoder (30.0 %)" in _texts(verdict, "good")
    assert "(selfcluster explore), or train from it (--encoder tf_efficientnet_lite0 --init pretrained)" in _texts(verdict, "note")
    figures["pretrained encoder"] = figures["raw pixels"]
    assert not _texts(judge(_rows(), CONFIG, figures), "note")


def test_baselines_that_are_not_beaten_are_named_together() -> None:
    figures = {name: {"cluster/accuracy": 0.5} for name in ("raw pixels", "pretrained encoder", "untrained encoder", "trained encoder")}
    wanted = "Clusters find the class of 50.0 % of the images, no better than with raw pixels (50.0 %), the pretrained encoder (50.0 %) or the untrained encoder (50.0 %)."
    assert _texts(judge(_rows(), CONFIG, figures), "unfinished") == wanted


def test_the_verdict_looks_at_the_end_of_training() -> None:
    rows = _rows(
        **{"collapse/mean_embedding": lambda t: 1.0 if t < 0.45 else 0.1, "collapse/code_entropy": lambda t: 1.0 if t < 0.45 else 0.5}
    )
    assert at_the_end(rows, "collapse/mean_embedding") == pytest.approx(0.1)
    assert judge(rows, CONFIG).state == "healthy"
    assert at_the_end(rows, "no/such") is None


def test_a_run_that_has_really_been_trained_gets_a_verdict() -> None:
    t, log = tiny.training(), tiny.Silent()
    loop.fit(t, log, None)
    assert judge(log.rows, t.config).state != "unknown"


def test_epochs_that_end_before_max_steps_are_the_end() -> None:
    config = tiny.config(epochs=EPOCHS, max_steps=100_000)
    assert judge(_rows(), config).state == "healthy"
    assert "Training stopped" in _texts(judge(_rows()[:25], config), "unfinished")


def test_a_run_that_was_stopped_by_a_collapse_is_collapsing() -> None:
    same = open_data(np.full((32, 20, 20, 3), 128, dtype=np.uint8), DataSettings())
    t, log = tiny.training(same, epochs=20, freeze_steps=1, jitter=0.0, grey=0.0, blur=0.0, flip=0.0), tiny.Silent()
    t.watch = Watch("stop", n_prototypes=t.config.n_prototypes, begins=1, n_steps=20)
    with pytest.raises(CollapseError, match="collapsed"):
        loop.fit(t, log, None)
    assert judge(log.rows, t.config).state == "collapsing"


# ---- the page and the watch agree ---------------------------------------------------------------------------------------------

K, B, STEPS = 100, 200, 40


def _metrics(entropy: float | None, length: float) -> tuple[Outputs, Codes | PseudoLabels]:
    """A batch with these health metrics: code entropy (a share of ln K) and squared length of the mean embedding."""
    signs = torch.tensor([1.0, -1.0]).repeat(B // 2)
    z = torch.stack([torch.full((B,), length**0.5), signs * (1 - length) ** 0.5], dim=1)[None]
    scores = torch.eye(K)[torch.arange(B) % K][None]
    if entropy is None:
        targets: Codes | PseudoLabels = PseudoLabels([torch.zeros(B, dtype=torch.int64)], torch.tensor(float(B)))
    else:
        codes = torch.eye(K)[torch.arange(B) % K]
        codes[: round(entropy * B)] = 1 / K
        targets = Codes(codes[None])
    return Outputs(z, z, [scores]), targets


@pytest.mark.parametrize("entropy", [None, 0.4, 0.7, 0.99])
@pytest.mark.parametrize("slope", [0.0, -0.002])
def test_training_stops_where_the_page_says_so(entropy: float | None, slope: float) -> None:
    """The watch and the verdict see the same metrics, and one of them objects if and only if the other does."""
    n_stopped = 0
    for loss, length in itertools.product((0.5, 0.985, 1.0, 1.3), (0.2, 0.97)):
        out, targets = _metrics(entropy, length)
        watch, rows = Watch("warn", n_prototypes=(K,), begins=0, n_steps=20), []
        for step in range(STEPS):
            watch.see(out, targets, torch.tensor(loss * math.log(K) + slope * step), step)
            if step % 2:
                rows.append({"step": step + 1, "epoch": 0, **watch.read()})
        verdict = judge(rows, tiny.config(n_prototypes=K))
        stops = verdict.state in ("collapsing", "not learning")
        assert stops == (watch.warned is not None), (loss, length)
        if watch.warned is not None:
            assert watch.warned.startswith("collapsed" if verdict.state == "collapsing" else "not learning")
        n_stopped += stops
    assert n_stopped < 8
    assert (n_stopped > 0) == (entropy != 0.7 and (slope == 0 or entropy == 0.99))
