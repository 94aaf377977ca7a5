"""Runs with --max-minutes count their steps anew as the pace changes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import selfcluster as sc
from selfcluster import distributed
from selfcluster.runs.checkpoint import CheckpointState, read_state, save_checkpoint
from selfcluster.runs.log import Log
from selfcluster.settings.config import flatten
from selfcluster.training import loop, time_limit
from selfcluster.training.time_limit import Stretch
from selfcluster.training.train import _limit
from tests import tiny
from tests.ranks import on_ranks


def test_a_step_is_its_own_position_until_steps_are_counted_anew() -> None:
    assert [Stretch(7919).at(step, 7919) for step in range(7919)] == list(range(7919))


def test_the_schedule_is_continuous_and_ends_with_the_run() -> None:
    stretch = Stretch(100)
    for step, n_left in ((30, 20), (40, 200), (90, 10)):
        after = stretch.over(step, n_left, 100)
        assert after.at(step, 100) == stretch.at(step, 100)
        assert after.total_steps == step + n_left
        assert after.at(after.total_steps, 100) == pytest.approx(100)
        stretch = after


@pytest.mark.parametrize(
    ("seconds", "left_in_epoch", "steps"),
    [
        (-5, 10, 1),  # the time is over
        (3, 10, 6),
        (5, 10, 10),  # the epoch ends with it
        (6.9, 10, 10),  # no time for another assignment
        (8, 10, 12),  # 5 s, 2 s for the assignment, 1 s
        (5 + 3 * 12, 10, 70),  # three whole epochs of 2 + 20 * 0.5 s
        (5 + 3 * 12 + 1, 10, 70),
    ],
)
def test_steps_in_a_time(seconds: float, left_in_epoch: int, steps: int) -> None:
    assert time_limit.steps_in(seconds, step=0.5, assign=2.0, left_in_epoch=left_in_epoch, steps_per_epoch=20) == steps


def test_the_latest_pace_counts_most() -> None:
    assert time_limit.mean_pace(None, 0.3, 1.0) == 0.3
    assert time_limit.mean_pace(0.1, 0.3, 1.0) < 0.12
    assert time_limit.mean_pace(0.1, 0.3, 60.0) > 0.29


@pytest.mark.parametrize("method", ["swav", "deepcluster-v2"])
def test_a_run_that_is_interrupted_keeps_its_stretch(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As if there were time for 20 steps at first, and for 4 from the tenth on, over an interruption."""
    counted = iter([20 - step if step < 10 else 14 - step for step in range(1, 100)])
    counting = SimpleNamespace(mean_pace=time_limit.mean_pace, steps_in=lambda *_, **__: next(counted))
    monkeypatch.setattr(loop, "time_limit", counting)
    settings = flatten(tiny.config(method, epochs=5, max_minutes=60.0, log_steps=1))
    with monkeypatch.context() as patch:
        fit = loop.fit
        patch.setattr(loop, "fit", lambda t, log, folder: fit(t, log, folder, stop_at=5))
        with pytest.raises(sc.errors.Interrupted):
            sc.train(tiny.images(), method=method, out=tmp_path / "run", **settings)
    assert read_state(tmp_path / "run").stretch["total_steps"] == 20
    run = sc.train(tiny.images(), out=tmp_path / "run", resume=True)
    rows = [row for row in run.metrics if "train/lr" in row]
    assert [row["step"] for row in rows] == list(range(1, 15))
    lr = [row["train/lr"] for row in rows]
    assert lr == sorted(lr, reverse=True)
    assert lr[-1] < 0.1 * lr[0]
    assert "the schedule now has 14 steps" in caplog.text
    sc.train(tiny.images(), out=tmp_path / "run", resume=True)
    assert "has finished" in caplog.text
    assert sc.train(tiny.images(), out=tmp_path / "run", resume=True, max_steps=16).opened.step == 16


def _train_with_a_limit() -> Stretch:
    """Train on ranks whose clocks differ; return how the steps were spread in the end."""
    t = tiny.training(epochs=200, log_steps=1)
    _limit(t, 1.5 + distributed.rank())
    loop.fit(t, Log(None, t.config.run), None)
    assert t.state.step == t.total_steps
    return t.state.stretch


def test_ranks_come_to_the_same_number_of_steps() -> None:
    first, second = on_ranks(_train_with_a_limit)
    assert first == second


@pytest.mark.parametrize("edited", [{"total_steps": "many"}, {"since": -1}, {"position": None}, {"other": 1}, {"total_steps": 2.5}])
def test_an_edited_stretch_is_refused(edited: dict[str, Any], tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {"model": {}}, CheckpointState(4, stretch={"total_steps": 9, "since": 0, "position": 0.0, "seconds": 0.0}))
    file = tmp_path / "checkpoints" / "4" / "state.json"
    content = json.loads(file.read_text())
    content["stretch"] |= edited
    file.write_text(json.dumps(content))
    with pytest.raises(sc.CheckpointError, match="is damaged: stretch is"):
        read_state(tmp_path)
