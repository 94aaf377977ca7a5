from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from selfcluster.data.sources import open_data
from selfcluster.errors import CollapseError, DivergenceError
from selfcluster.methods.base import Codes, OnCollapse, PseudoLabels
from selfcluster.models.model import Outputs
from selfcluster.settings.config import DataSettings
from selfcluster.training import loop
from selfcluster.training.collapse import Watch, require_finite
from selfcluster.training.state import Training
from tests import tiny

K, B, D = 30, 16, 8


def _watch(on_collapse: OnCollapse = "stop", *, n_prototypes: tuple[int, ...] = (K,), begins: int = 5) -> Watch:
    return Watch(on_collapse, n_prototypes=n_prototypes, begins=begins, n_steps=20)


def _training(*args: Any, n_steps: int = 20, **settings: Any) -> Training:
    """A training whose latest 20 steps are judged, instead of 200."""
    t = tiny.training(*args, **settings)
    t.watch = Watch(t.config.health.on_collapse, n_prototypes=t.config.n_prototypes, begins=t.method.settles_at, n_steps=n_steps)
    return t


def _step(watch: Watch, step: int, *, same: bool, sharp: bool, loss: float) -> None:
    generator = torch.Generator().manual_seed(step)
    z = normalize(torch.ones(2, B, D) if same else torch.randn(2, B, D, generator=generator), dim=-1)
    scores = torch.randn(2, B, K, generator=generator)
    codes = torch.softmax(scores * (20 if sharp else 0), dim=-1)
    watch.see(Outputs(features=z, embeddings=z, scores=[scores]), Codes(codes), torch.tensor(loss), step)


def test_collapse_stops_the_run_and_names_the_settings() -> None:
    watch = _watch()
    for step in range(30):
        _step(watch, step, same=True, sharp=False, loss=math.log(K))
    with pytest.raises(CollapseError, match=r"collapsed.*lower epsilon.*freeze_steps.*--on-collapse warn"):
        watch.read()


def test_a_run_that_is_stopped_again_and_again_is_judged_as_one() -> None:
    state = None
    for begin in range(0, 28, 7):  # never 20 steps in one process
        watch = _watch()
        if state is not None:
            watch.load_state_dict(state, torch.device("cpu"))
        for step in range(begin, begin + 7):
            _step(watch, step, same=True, sharp=False, loss=math.log(K))
            if step % 5 == 4:  # the others are unread when it stops
                if begin == 21:
                    with pytest.raises(CollapseError, match="collapsed"):
                        watch.read()
                    return
                watch.read()
        state = watch.state_dict()
    raise AssertionError("not recognized")


def test_sharp_codes_without_learning_stop_the_run() -> None:
    watch = _watch()
    for step in range(30):
        _step(watch, step, same=False, sharp=True, loss=math.log(K) + 1)
    with pytest.raises(CollapseError, match=r"not learning.*raise epsilon"):
        watch.read()


def test_a_loss_that_stays_at_ln_k_is_not_learning_even_where_embeddings_differ() -> None:
    watch = _watch()
    for step in range(30):
        _step(watch, step, same=False, sharp=False, loss=math.log(K) + 0.002)
    with pytest.raises(CollapseError, match=r"not learning.*stays at ln K.*lower epsilon"):
        watch.read()


def test_a_loss_above_ln_k_that_falls_is_no_alarm() -> None:
    watch = _watch()
    for step in range(60):
        _step(watch, step, same=False, sharp=True, loss=math.log(K) + 2 - 0.02 * step)
    watch.read()


@pytest.mark.parametrize("seed", range(2))
def test_a_healthy_run_raises_no_alarm(seed: int) -> None:
    """Few prototypes and hard codes from the first step on, judged over short windows: the likeliest false alarm."""
    t = _training(n_steps=40, epochs=40, epsilon=0.02, freeze_steps=4, seed=seed)
    loop.fit(t, tiny.Silent(), None)
    assert t.watch.warned is None


def test_on_collapse_warn_continues_with_a_warning() -> None:
    watch = _watch("warn")
    for step in range(30):
        _step(watch, step, same=True, sharp=False, loss=math.log(K))
    watch.read()
    assert watch.warned is not None
    assert watch.warned.startswith("collapsed")


@pytest.mark.parametrize(("same", "sharp", "loss"), [(False, False, 3.5), (True, True, 1.0), (False, True, 1.0)])
def test_one_metric_alone_is_no_alarm(same: bool, sharp: bool, loss: float) -> None:
    watch = _watch()
    for step in range(60):
        _step(watch, step, same=same, sharp=sharp, loss=loss)
    metrics = watch.read()
    assert set(metrics) == {"train/loss", "collapse/code_entropy", "collapse/mean_embedding", "collapse/prototypes_used"}


def test_warm_up_and_freeze_do_not_count() -> None:
    watch = _watch(begins=1000)
    for step in range(100):
        _step(watch, step, same=True, sharp=False, loss=math.log(K))
    assert watch.read()["collapse/mean_embedding"] == pytest.approx(1, abs=1e-4)


def test_a_loss_that_is_not_finite_names_the_step() -> None:
    watch = _watch()
    _step(watch, 0, same=False, sharp=True, loss=1.0)
    _step(watch, 1, same=False, sharp=True, loss=float("nan"))
    with pytest.raises(DivergenceError, match="nan at step 1"):
        watch.read()
    with pytest.raises(DivergenceError, match="step 7"):
        require_finite(torch.tensor([1.0, float("inf")]), "embeddings", 7)


def test_prototypes_used_counts_the_newest_samples() -> None:
    watch = _watch()
    for step in range(50):
        _step(watch, step, same=False, sharp=True, loss=1.0)
    assert 25 < watch.read()["collapse/prototypes_used"] <= K
    assert sum(map(len, watch._assigned)) < 10 * K + 2 * B


def test_training_that_really_collapses_is_stopped() -> None:
    """Uniform codes on identical crops of identical images: nothing can be told apart."""
    same = open_data(np.full((32, 20, 20, 3), 128, dtype=np.uint8), DataSettings())
    t = _training(same, epochs=20, freeze_steps=1, jitter=0.0, grey=0.0, blur=0.0, flip=0.0)
    with pytest.raises(CollapseError, match="collapsed"):
        loop.fit(t, tiny.Silent(), None)


def test_training_on_noise_is_reported_as_not_learning() -> None:
    """Codes hardened by a tiny epsilon, and a network that never changes: the loss cannot fall below ln K."""
    t = _training(epochs=20, freeze_steps=1, epsilon=0.001, lr=0.0, final_lr=0.0, area=((0.05, 1.0), (0.05, 0.1)))
    with pytest.raises(CollapseError, match="not learning"):
        loop.fit(t, tiny.Silent(), None)


# ---- pseudo-labels ------------------------------------------------------------------------------------------------------------


def _labeled_step(watch: Watch, step: int, loss: float) -> None:
    z = normalize(torch.ones(2, B, D), dim=-1)  # features after a ReLU agree far more than embeddings, so this must not count
    out = Outputs(features=z, embeddings=z, scores=[torch.randn(2, B, K, generator=torch.Generator().manual_seed(step))] * 2)
    watch.see(out, PseudoLabels([torch.zeros(B, dtype=torch.int64)] * 2, torch.tensor(float(B))), torch.tensor(loss), step)


@pytest.mark.parametrize("excess", [-0.02, 0.0, 0.7])
def test_a_loss_on_pseudo_labels_that_stays_at_ln_k_is_not_learning(excess: float) -> None:
    watch = _watch()
    for step in range(30):
        _labeled_step(watch, step, math.log(K) + excess)
    with pytest.raises(
        CollapseError, match=r"not learning: over the last 20 steps the loss .* does not fall .*raise a small lr.*fewer prototypes"
    ):
        watch.read()


@pytest.mark.parametrize(("begin", "slope"), [(math.log(K) + 2, -0.02), (math.log(K), -0.002), (0.9 * math.log(K), 0.0), (0.0, 0.0)])
def test_a_loss_on_pseudo_labels_that_falls_or_is_low_is_no_alarm(begin: float, slope: float) -> None:
    watch = _watch()
    for step in range(60):
        _labeled_step(watch, step, begin + slope * step)
    assert set(watch.read()) == {"train/loss", "collapse/mean_embedding", "collapse/prototypes_used"}


def test_ln_k_of_several_heads_is_their_mean() -> None:
    many, few = (_watch(n_prototypes=n, begins=0) for n in ((K, 300), (K, 2)))
    for watch in (many, few):
        for step in range(30):
            _labeled_step(watch, step, math.log(K))
    many.read()
    with pytest.raises(CollapseError, match="not learning"):
        few.read()


def test_pseudo_labels_that_nothing_learns_stop_the_run() -> None:
    t = _training(method="sela-v2", epochs=20, lr=0.0, final_lr=0.0, area=((0.05, 1.0), (0.05, 0.1)))
    with pytest.raises(CollapseError, match=r"not learning.*--on-collapse warn"):
        loop.fit(t, tiny.Silent(), None)
