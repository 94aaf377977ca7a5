"""The largest batch: as large as memory and images allow, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfcluster import capacity, device
from selfcluster.capacity import Capacity, largest_batch
from selfcluster.methods import METHODS
from selfcluster.run import dry_run, train
from selfcluster.settings.config import Config, flatten
from tests import tiny

CPU = torch.device("cpu")


def _config_of(method: str = "swav") -> Callable[[int], Config[Any]]:
    return lambda batch: tiny.config(method, batch=batch or 8)


def _with_peaks(monkeypatch: pytest.MonkeyPatch, peak: Callable[[int], int | None], *, limit: int) -> list[int]:
    """Steps take what `peak` says of their batch; the batches that are tried are listed."""
    tried: list[int] = []

    def of_step(config: Config[Any], *_: Any) -> int | None:
        tried.append(config.optim.batch)
        return peak(config.optim.batch)

    monkeypatch.setattr(capacity, "_peak_of_a_step", of_step)
    monkeypatch.setattr(capacity, "memory_limit", lambda _: limit)
    monkeypatch.setattr(capacity, "peak_memory", lambda _: 0)
    return tried


def test_memory_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _with_peaks(monkeypatch, lambda batch: 10 * batch, limit=400)
    found = largest_batch(_config_of(), tiny.data(n=1000), CPU)
    assert (found.batch, found.peak_bytes) == (32, 320)
    assert "64 would not fit" in found.why
    assert tried == [8, 16, 32], "on a computer what would not fit is not tried"


def test_images_are_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = _with_peaks(monkeypatch, lambda batch: batch, limit=10**9)
    found = largest_batch(_config_of(), tiny.data(n=300), CPU)
    assert found == Capacity(32, 32, "300 images want no larger one")
    assert tried == [8, 16, 32]


def test_what_runs_out_of_memory_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_peaks(monkeypatch, lambda batch: None if batch > 16 else batch, limit=10**9)
    assert largest_batch(_config_of(), tiny.data(n=1000), CPU).batch == 16


def test_the_recipes_batch_stays_where_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_peaks(monkeypatch, lambda _: None, limit=1)
    found = largest_batch(_config_of(), tiny.data(n=1000), CPU)
    assert found.batch == 8
    assert "does not fit" in found.why


@pytest.mark.parametrize("method", METHODS)
def test_real_steps_are_tried(method: str) -> None:
    found = largest_batch(_config_of(method), tiny.data(n=140), CPU)
    assert found.batch == 16
    assert 10**7 < found.peak_bytes < device.memory_limit(CPU)


def test_training_takes_it_and_lr_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1200, 8, 8, 3), dtype=np.uint8)
    common = dict(
        encoder="resnet10_small_quarter_s2", n_crops=(2,), crop_pixels=(8,), area=((0.5, 1.0),), max_steps=2, epochs=1, optimizer="adamw"
    )
    dry_run(images, **common)
    settings = {
        name: float(line.split()[1])
        for line in capsys.readouterr().err.splitlines()
        for name in ("batch", "lr")
        if line.split()[:1] == [name]
    }
    run = train(images, out=tmp_path / "run", batch="auto", **common)
    found = flatten(run.config)
    assert found["batch"] == 128 > settings["batch"] == 32
    assert found["lr"] == pytest.approx(0.003)
    assert settings["lr"] == pytest.approx(0.003 * (32 / 64) ** 0.5)
    assert "1,200 images want no larger one" in capsys.readouterr().err
