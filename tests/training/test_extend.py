"""A finished run is made longer by --resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import selfcluster as sc
from selfcluster.optim import cosine
from selfcluster.runs.folder import read_config
from selfcluster.training import loop
from tests import tiny

FAST: dict[str, Any] = {**tiny.SETTINGS, "epochs": 2, "log_steps": 1}


def steps(run: sc.Run) -> list[float]:
    return [row["step"] for row in run.metrics if "train/loss" in row]


def test_a_schedule_can_begin_again() -> None:
    whole = cosine(lr=1.0, final_lr=0.1, total_steps=8)
    again = cosine(lr=1.0, final_lr=0.1, total_steps=13, first_step=5)
    assert [again(step) for step in range(5, 13)] == [whole(step) for step in range(8)]


def test_a_finished_run_is_trained_for_more_epochs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = sc.train(tiny.images(), out=tmp_path / "run", **FAST)
    n = first.opened.step
    longer = sc.train(tiny.images(), out=tmp_path / "run", resume=True, epochs=5)
    assert f"training it from step {n} to {5 * n // 2}" in caplog.text
    assert longer.opened.step == 5 * n // 2
    assert steps(longer) == list(range(1, 5 * n // 2 + 1))
    lr = [row["train/lr"] for row in longer.metrics if "train/lr" in row]
    assert lr[n] == lr[0] > lr[n - 1] > lr[-1]
    text = (tmp_path / "run" / "config.toml").read_text()
    assert "epochs = 5  # when it was made longer" in text
    assert f"extended_at = {n}  # when it was made longer" in text
    assert "batch = 8  # flag" in text or "# flag" in text  # other origins stay
    assert sc.load(tmp_path / "run").opened.step == 5 * n // 2
    again = sc.train(tiny.images(), out=tmp_path / "run", resume=True, max_steps=5 * n // 2 + 3)
    assert again.opened.step == 5 * n // 2 + 3


def test_it_is_made_longer_by_minutes_at_its_own_pace(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    n = sc.train(tiny.images(), out=tmp_path / "run", **FAST).opened.step
    state = tmp_path / "run" / "checkpoints" / str(n) / "state.json"
    content = json.loads(state.read_text())
    content["seconds"] = 0.5 * n
    state.write_text(json.dumps(content))
    longer = sc.train(tiny.images(), out=tmp_path / "run", resume=True, max_minutes=0.05)
    assert f"training it from step {n} to {n + 6}" in caplog.text  # 3 s; while it trains, steps are counted anew
    steps_then = longer.opened.step
    assert steps_then > n
    again = sc.train(tiny.images(), out=tmp_path / "run", resume=True, max_minutes=0.05)
    assert again.opened.step > steps_then  # as many minutes again


def test_a_run_that_is_interrupted_while_it_is_made_longer_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = sc.train(tiny.images(), out=tmp_path / "run", **FAST).opened.step
    whole = loop.fit
    for stop_at in (None, n + 1):
        with monkeypatch.context() as patch:

            def cut_off(*arguments: Any, stop_at: int | None = stop_at) -> None:
                if stop_at is None:
                    raise KeyboardInterrupt
                whole(*arguments, stop_at=stop_at)

            patch.setattr(loop, "fit", cut_off)
            with pytest.raises((KeyboardInterrupt, sc.errors.Interrupted)):
                sc.train(tiny.images(), out=tmp_path / "run", resume=True, **({"epochs": 4} if stop_at is None else {}))
    assert sc.train(tiny.images(), out=tmp_path / "run", resume=True).opened.step == 2 * n


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 1}, r"cannot resume with --epochs: the run has finished \d+ steps \(2 epochs\) already"),
        ({"max_steps": 2}, "cannot resume with --max-steps"),
        ({"lr": 3.0}, "cannot resume with lr"),
        ({"epochs": -3}, "epochs"),
    ],
)
def test_what_does_not_make_it_longer_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    sc.train(tiny.images(), out=tmp_path / "run", **FAST)
    before = (tmp_path / "run" / "config.toml").read_bytes()
    with pytest.raises(sc.ConfigError, match=message):
        sc.train(tiny.images(), out=tmp_path / "run", resume=True, **settings)
    assert (tmp_path / "run" / "config.toml").read_bytes() == before


def test_a_run_that_has_not_finished_is_not_made_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loop.fit
    monkeypatch.setattr(loop, "fit", lambda *arguments: whole(*arguments, stop_at=2))
    with pytest.raises(sc.errors.Interrupted):
        sc.train(tiny.images(), out=tmp_path / "run", **FAST)
    with pytest.raises(sc.ConfigError, match=r"has not finished \(step 2 of"):
        sc.train(tiny.images(), out=tmp_path / "run", resume=True, epochs=5)


def test_a_finished_run_says_so_and_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = sc.train(tiny.images(), out=tmp_path / "run", **FAST)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    caplog.clear()
    sc.train(tiny.images(), out=tmp_path / "run", resume=True)
    assert "has finished" in caplog.text
    assert "--epochs, --max-steps or --max-minutes to make it longer" in caplog.text
    assert "trained" not in caplog.text
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert read_config(run.path)[0].optim.extended_at == 0
