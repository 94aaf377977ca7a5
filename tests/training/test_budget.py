"""Seconds to steps and back, and the measured cost of a run."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfcluster import device
from selfcluster.api import train
from selfcluster.data.loader import EpochPlan
from selfcluster.errors import ConfigError, Interrupted
from selfcluster.methods import METHODS
from selfcluster.methods.base import Extractor
from selfcluster.settings.config import Config, flatten
from selfcluster.training import budget, extraction, loop
from selfcluster.training.budget import Capacity, Cost, largest_batch, measure
from selfcluster.training.train import dry_run
from tests import tiny
from tests.ranks import on_ranks

COSTS = [
    Cost(step, first, assign, steps_per_epoch)
    for step, first, assign, steps_per_epoch in itertools.product((0.01, 0.37), (0.0, 9.0), (0.0, 0.1, 60.0), (1, 7, 100))
]


@pytest.mark.parametrize("cost", COSTS)
def test_seconds_and_steps_are_inverse_to_each_other(cost: Cost) -> None:
    for n in (1, 2, 6, 7, 8, 13, 14, 15, 99, 100, 101, 350, 1000):
        seconds = cost.of(n)
        assert cost.steps_in(seconds + 1e-6) == n
        assert cost.steps_in(seconds + 0.9 * cost.step) == n, "not enough for another"
        if n > 1:
            assert cost.steps_in(seconds - 1e-6) == n - 1
            assert cost.of(n) >= cost.of(n - 1) + cost.step - 1e-9


@pytest.mark.parametrize("cost", COSTS)
def test_what_is_planned_fits_the_time(cost: Cost) -> None:
    for seconds in (12.0, 77.7, 600.0, 36000.0):
        n = cost.steps_in(seconds)
        assert n == 1 or cost.of(n) <= seconds + 1e-6
        assert cost.of(n + 1) > seconds - 1e-6


def test_an_epochs_assignment_is_counted_where_the_epoch_begins() -> None:
    cost = Cost(step=1.0, first_assign=100.0, assign=10.0, steps_per_epoch=4)
    assert [cost.of(n) for n in (1, 4, 5, 8, 9)] == [101, 104, 115, 118, 129]
    assert cost.steps_in(0) == cost.steps_in(50) == 1, "one at least"


@pytest.mark.parametrize("method", METHODS)
def test_measuring_gives_seconds(method: str) -> None:
    t = tiny.training(method=method)
    cost = measure(t, n_steps=1)
    assert cost.steps_per_epoch == 4
    assert 0 < cost.step < 20
    assert all(0 < seconds < 20 and math.isfinite(seconds) for seconds in (cost.first_assign, cost.assign))
    if method != "swav":
        assert cost.first_assign > 1e-3
    assert cost.of(t.total_steps) > t.total_steps * cost.step


def test_measuring_respects_its_time_and_the_length_of_an_epoch() -> None:
    t = tiny.training(batch=36)
    assert measure(t, n_steps=50).step > 0
    t = tiny.training(batch=4)
    taken, before_update = [], t.loader.epoch

    def counted(*given: object) -> object:
        for batch in before_update(*given):  # type: ignore[arg-type]
            taken.append(batch)
            yield batch

    t.loader.epoch = counted  # type: ignore[method-assign, assignment]
    measure(t, n_steps=50, at_most=0.0)
    assert len(taken) == 1


def test_patches_are_fitted_once_and_their_time_does_not_grow_with_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data, fitted = tiny.data(96), []
    t = tiny.training(data, "deepcluster-v2", first_labels="patches")
    clock = iter([100.0, 130.0])
    monkeypatch.setattr(extraction, "fit_patches", lambda *_, **__: fitted.append(1))
    monkeypatch.setattr(budget, "_N_PATCHED", 48)
    monkeypatch.setattr(budget, "measure", lambda sampled, **_: Cost(1.0, 0.5 * len(sampled.method.trained_on), 0.0, 4))
    monkeypatch.setattr(budget.time, "perf_counter", lambda: next(clock))
    cost = budget.cost_of(t, data)
    assert cost.first_assign == 30.0 + 0.5 * 96
    extraction.fitted_patches(t)
    assert len(fitted) == 1


def test_epochs_without_a_clustering_share_its_cost() -> None:
    t = tiny.training(method="deepcluster", reassign_epochs=8)
    seconds, begin_epoch = {}, t.method.begin_epoch

    def timed(epoch: int, extract: Extractor) -> EpochPlan:
        started = time.perf_counter()
        plan = begin_epoch(epoch, extract)
        time.sleep(0.2)  # long compared with other delays of the machine
        seconds[epoch] = time.perf_counter() - started
        return plan

    t.method.begin_epoch = timed  # type: ignore[method-assign]
    cost = measure(t, n_steps=1)
    assert list(seconds) == [0, 8], "the two that cluster"
    assert cost.first_assign == pytest.approx(seconds[0], rel=0.2)
    assert cost.assign == pytest.approx(seconds[8] / 8, rel=0.2)


def _on_a_rank() -> Cost:
    return measure(tiny.training(method="deepcluster-v2"), n_steps=1)


def test_all_ranks_return_the_cost_of_the_slowest() -> None:
    left, right = on_ranks(_on_a_rank)
    assert left == right


CPU = torch.device("cpu")


def _config_of(method: str = "swav") -> Callable[[int], Config[Any]]:
    return lambda batch: tiny.config(method, batch=batch or 8)


def _with_peaks(monkeypatch: pytest.MonkeyPatch, peak: Callable[[int], int | None], *, limit: int) -> list[int]:
    """Let steps take the memory that `peak` returns for their batch; return the list of batches tried."""
    tried: list[int] = []

    def of_step(config: Config[Any], *_: Any) -> int | None:
        tried.append(config.optim.batch)
        return peak(config.optim.batch)

    monkeypatch.setattr(budget, "_peak_of_a_step", of_step)
    monkeypatch.setattr(budget, "memory_limit", lambda _: limit)
    monkeypatch.setattr(budget, "peak_memory", lambda _: 0)
    return tried


def test_memory_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _with_peaks(monkeypatch, lambda batch: 10 * batch, limit=400)
    found = largest_batch(_config_of(), tiny.data(n=1000), CPU)
    assert (found.batch, found.peak_bytes) == (32, 320)
    assert "64 would not fit" in found.why
    assert tried == [8, 16, 32], "on a CPU, what would not fit is not tried"


def test_images_are_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _with_peaks(monkeypatch, lambda batch: batch, limit=10**9)
    found = largest_batch(_config_of(), tiny.data(n=300), CPU)
    assert found == Capacity(32, 32, "300 images are too few for a larger one")
    assert tried == [8, 16, 32]


def test_what_runs_out_of_memory_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_peaks(monkeypatch, lambda batch: None if batch > 16 else batch, limit=10**9)
    assert largest_batch(_config_of(), tiny.data(n=1000), CPU).batch == 16


def test_the_recipes_batch_stays_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_peaks(monkeypatch, lambda _: None, limit=1)
    found = largest_batch(_config_of(), tiny.data(n=1000), CPU)
    assert found.batch == 8
    assert "does not fit" in found.why


def _refusal_on_a_rank() -> str:
    try:
        largest_batch(_config_of(), tiny.data(), CPU)
    except ConfigError as error:
        return str(error)
    return "measured"


def test_several_ranks_are_refused() -> None:
    assert on_ranks(_refusal_on_a_rank) == ["batch auto cannot be used with 2 ranks; set --batch, for example to what it finds on one"] * 2


@pytest.mark.parametrize("method", METHODS)
def test_real_steps_are_tried(method: str) -> None:
    found = largest_batch(_config_of(method), tiny.data(n=140), CPU)
    assert found.batch == 16
    assert 10**7 < found.peak_bytes < device.memory_limit(CPU)


def test_training_uses_it_and_lr_follows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1200, 8, 8, 3), dtype=np.uint8)
    common = dict(
        encoder="resnet10_small_quarter_s2", n_crops=(2,), crop_pixels=(8,), area=((0.5, 1.0),), max_steps=2, epochs=1, optimizer="adamw"
    )
    dry_run(images, **common)
    settings = {
        name: float(line.split()[1])
        for line in "\n".join(caplog.messages).splitlines()
        for name in ("batch", "lr")
        if line.split()[:1] == [name]
    }
    run = train(images, out=tmp_path / "run", batch="auto", **common)
    found = flatten(run.config)
    assert found["batch"] == 128 > settings["batch"] == 32
    assert found["lr"] == pytest.approx(0.003)
    assert settings["lr"] == pytest.approx(0.003 * (32 / 64) ** 0.5)
    assert "1,200 images are too few for a larger one" in "\n".join(caplog.messages)


@pytest.mark.parametrize("measured", [lambda t: measure(t, n_steps=1), lambda t: loop.fit(t, tiny.Silent(), None, stop_at=2)])
def test_the_measured_step_is_that_of_the_loop(measured: Callable[[Any], object]) -> None:
    t, sizes, hooks = tiny.training(accumulate=4, recompute=True), [], []
    t.model.register_forward_pre_hook(lambda _, crops: sizes.append(len(crops[0][0])))
    for name in ("before_update", "after_update"):
        setattr(t.method, name, lambda *_, name=name: hooks.append(name))
    with contextlib.suppress(Interrupted):
        measured(t)
    assert set(sizes) == {t.config.optim.batch // 4}
    assert len(sizes) == 8 * hooks.count("before_update") > 0
    assert hooks.count("before_update") == hooks.count("after_update")


def test_warm_up_is_skipped_in_short_epochs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    t = tiny.training()
    t.loader.workers = 8  # so that 17 steps would be skipped, of an epoch of 4
    monkeypatch.setattr(t.loader, "epoch", lambda *_: iter(range(4)))
    clock = iter([0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 3.0, 3.1, 3.1, 3.2, 3.2, 3.3, 3.3])
    monkeypatch.setattr(budget, "step", lambda *_: None)
    monkeypatch.setattr(budget.time, "perf_counter", lambda: next(clock))
    assert measure(t).step == pytest.approx(0.1)
