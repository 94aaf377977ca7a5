"""Every method learns, resumes bit for bit, gives the same losses on two ranks, and copes with a broken image."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from selfcluster import optim
from selfcluster.clustering import metrics
from selfcluster.data.dataset import Data
from selfcluster.data.sources import open_data
from selfcluster.methods import METHODS
from selfcluster.settings.config import DataSettings
from selfcluster.training import loop
from selfcluster.training.state import Training, restore
from tests import tiny
from tests.ranks import on_ranks

METHOD = pytest.mark.parametrize("method", METHODS)
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("swav", dict(queue_length=16, queue_from_epoch=1)),
    ("deepcluster", dict(dropout=0.3, optimizer="lars", lr=0.5)),
    ("deepcluster", dict(reassign_epochs=2)),
    ("deepcluster-v2", {}),
    ("sela-v2", dict(optimizer="adamw", lr=1e-3)),
]
"""Settings of each method that add state to save and resume."""


def _everything(t: Training) -> dict[str, torch.Tensor]:
    """Weights and statistics, the state of the method and the optimizers, and the plan."""
    assert t.state.plan is not None
    state = {
        **t.model.state_dict(),
        **{f"method/{name}": value for name, value in t.method.state_dict().items()},
        **{f"optimizer/{name}": value for name, value in optim.state_by_name(t.optimizers, t.parameter_names).items()},
        "plan": torch.from_numpy(t.state.plan.order),
    }
    return {name: tensor.clone() for name, tensor in state.items()}


def _groups() -> Data:
    """48 images in four groups of similar ones."""
    base, noise = tiny.images(4, seed=3).astype(float), np.random.default_rng(0).normal(0, 12, (48, 20, 20, 3))
    return open_data((base[np.arange(48) % 4] + noise).clip(0, 255).astype(np.uint8), DataSettings())


@pytest.mark.parametrize("method", ["deepcluster-v2", "sela-v2"])
def test_the_loss_falls(method: str) -> None:
    """SwAV's learning test is in the tests of the loop."""
    t = tiny.training(_groups(), method, epochs=8, batch=16, log_steps=3, jitter=0.0, grey=0.0, blur=0.0)
    log = tiny.Silent()
    loop.fit(t, log, None)
    assert log.losses()[-1] < log.losses()[0] - 0.3


def test_deepcluster_learns_the_digits() -> None:
    """Its labels agree more with the classes, which it never sees, from epoch to epoch."""
    from sklearn.datasets import load_digits

    data, classes = open_data("digits", DataSettings()), load_digits().target
    t = tiny.training(
        data, "deepcluster", epochs=3, batch=64, log_steps=14, n_prototypes=30, pca_width=16, top_lr=0.5, jitter=0.0, grey=0.0, blur=0.0, flip=0.0
    )  # fmt: skip
    agreement, begin_epoch = [], t.method.begin_epoch

    def noted(*given: Any) -> Any:
        plan = begin_epoch(*given)
        agreement.append(metrics.nmi(classes, t.method.labels.of_head(0)))
        return plan

    t.method.begin_epoch = noted
    log = tiny.Silent()
    loop.fit(t, log, None)
    assert agreement[-1] > agreement[0] + 0.15
    assert log.losses()[-1] < log.losses()[0] - 0.4


def _of_clusters(log: tiny.Silent, first_step: int) -> list[dict[str, float]]:
    """Metrics of clusterings from this step on, without their time."""
    rows = [row for row in log.rows if "cluster/n_empty" in row and row["step"] >= first_step]
    return [{name: value for name, value in row.items() if name != "train/assign_seconds"} for row in rows]


@pytest.mark.parametrize(("method", "settings"), VARIANTS)
def test_resume_is_bit_identical_in_mid_epoch_and_at_an_epochs_end(tmp_path: Path, method: str, settings: dict[str, Any]) -> None:
    def begun() -> Training:
        return tiny.training(method=method, epochs=2, log_steps=1, **settings)

    whole, log = begun(), tiny.Silent()
    loop.fit(whole, log, None)
    wanted = _everything(whole)
    for stop_at in (4, 6):
        folder = tmp_path / str(stop_at)
        first = begun()
        with pytest.raises(loop.Interrupted):
            loop.fit(first, tiny.Silent(), folder, stop_at=stop_at)
        saved = _everything(first)
        second, log_after = begun(), tiny.Silent()
        restore(second, folder)
        for name, value in _everything(second).items():
            assert torch.equal(value, saved[name]), name
        assert saved.keys() == _everything(second).keys()
        loop.fit(second, log_after, None)
        assert log.losses()[stop_at:] == log_after.losses()
        assert _of_clusters(log, 4 if stop_at == 4 else 8) == _of_clusters(log_after, 0)
        got = _everything(second)
        assert wanted.keys() == got.keys()
        for name in wanted:
            assert torch.equal(wanted[name], got[name]), name


@METHOD
def test_the_state_of_the_method_in_a_checkpoint(method: str) -> None:
    t = tiny.training(method=method, epochs=1, **dict(VARIANTS)[method])
    loop.fit(t, tiny.Silent(), None)
    shapes = {name: tuple(value.shape) for name, value in t.method.state_dict().items()}
    bank = dict(pseudo_labels=(3, 36), bank_embeddings=(2, 36, 16), bank_is_filled=(36,))
    assert shapes == {
        "swav": dict(step=(), embeddings=(2, 2, 8, 16), n_filled=()),
        "deepcluster": dict(
            pseudo_labels=(1, 36), n_labels=(), centroids=(8, 35), whitening_mean=(128,), whitening_components=(128, 35), whitening_spread=()
        ),
        "deepcluster-v2": bank,
        "sela-v2": bank,
    }[method]  # fmt: skip


# ---- ranks --------------------------------------------------------------------------------------------------------------------


def _losses(method: str, n: int) -> tuple[list[float], list[float]]:
    t, log = tiny.training(tiny.data(n), method, **_on_ranks(method, 3)), tiny.Silent()
    loop.fit(t, log, None)
    return log.losses(), [row["cluster/largest_share"] for row in log.rows if "cluster/largest_share" in row]


def _on_ranks(method: str, max_steps: int) -> dict[str, Any]:
    """36 and 35 images are two steps an epoch."""
    # With as many whitened directions as images, all images are equally far from each other, and rounding decides.
    own: dict[str, Any] = dict(pca_width=4) if method == "deepcluster" else dict(lr=0.5)
    return dict(batch=16, log_steps=1, epochs=20, max_steps=max_steps, **own)


@METHOD
@pytest.mark.parametrize("n", [36, 35])
def test_two_ranks_give_the_losses_of_one_process(method: str, n: int) -> None:
    alone, shares = _losses(method, n)
    left, right = on_ranks(_losses, method, n)
    assert len(alone) == 3
    assert left[0] == right[0]
    np.testing.assert_allclose(left[0], alone, rtol=1e-4)
    assert left[1] == shares
    assert len(shares) == (0 if method == "swav" else 2)


def _part(method: str, folder: str, stop_at: int | None) -> list[float]:
    t, log = tiny.training(tiny.data(35), method, **_on_ranks(method, 5)), tiny.Silent()
    if (Path(folder) / "checkpoints").exists():
        restore(t, Path(folder))
    with contextlib.suppress(loop.Interrupted):
        loop.fit(t, log, Path(folder) if stop_at else None, stop_at=stop_at)
    return log.losses()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "swav"])
def test_a_run_of_two_ranks_is_resumed_by_one(tmp_path: Path, method: str) -> None:
    whole = _part(method, str(tmp_path / "none"), None)
    on_ranks(_part, method, str(tmp_path), 3)
    np.testing.assert_allclose(_part(method, str(tmp_path), None), whole[3:], rtol=1e-4)


# ---- a folder with a broken image, and the rows -------------------------------------------------------------------------------


@METHOD
def test_a_folder_with_a_broken_image_trains_and_resumes(tmp_path: Path, method: str) -> None:
    folder, run = tmp_path / "images", tmp_path / "run"
    folder.mkdir()
    data = tiny.folder_of_images(folder, 20, broken=(7,))

    def begun(workers: int) -> Training:
        return tiny.training(data, method, workers=workers, epochs=2, log_steps=1)

    whole, log = begun(0), tiny.Silent()
    loop.fit(whole, log, None)
    assert list(whole.loader.broken) == [7]
    first = begun(0)
    with pytest.raises(loop.Interrupted):
        loop.fit(first, tiny.Silent(), run, stop_at=3)
    second, log_after = begun(1), tiny.Silent()
    restore(second, run)
    assert second.loader.broken == first.loader.broken
    loop.fit(second, log_after, None)
    assert log.losses()[3:] == log_after.losses()
    assert all(torch.equal(a, b) for a, b in zip(_everything(whole).values(), _everything(second).values(), strict=True))


@METHOD
def test_every_row_has_the_documented_metrics(method: str) -> None:
    t, log = tiny.training(method=method, epochs=2), tiny.Silent()
    loop.fit(t, log, None)
    of_step = {
        "step",
        "epoch",
        "train/loss",
        "train/lr",
        "train/images_per_second",
        "train/data_wait",
        "collapse/mean_embedding",
        "collapse/prototypes_used",
    }
    of_codes = {"collapse/code_entropy"} if method == "swav" else set()
    steps = [row for row in log.rows if "train/loss" in row]
    assert len(steps) == 4
    assert all(set(row) == of_step | of_codes for row in steps)
    assert [row["epoch"] for row in log.rows if "collapse/rankme" in row] == [0, 1]
    plans = [row for row in log.rows if "train/assign_seconds" in row]
    if method == "swav":
        assert plans == []
        return
    sizes = {f"cluster/{name}" for name in ("n_empty", "largest_share", "size_smallest", "size_median", "size_largest")}
    assert [set(row) for row in plans] == [
        {"step", "epoch", "train/assign_seconds", *sizes},
        {"step", "epoch", "train/assign_seconds", "cluster/nmi_previous", *sizes},
    ]
    assert [(row["step"], row["epoch"]) for row in plans] == [(0, 0), (4, 1)]


def test_the_time_of_assigning_is_not_that_of_the_steps_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is written in between, so the time has to be taken when assigning begins."""
    t = tiny.training(method="sela-v2", epochs=2, batch=32, log_steps=1000)
    now, begin_epoch = [0.0], t.method.begin_epoch

    def in_three_seconds(*args: Any) -> Any:
        now[0] += 3
        return begin_epoch(*args)

    def in_one_second(step: int) -> None:
        now[0] += 1

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(t.method, "begin_epoch", in_three_seconds)
    monkeypatch.setattr(t.method, "before_update", in_one_second)
    log = tiny.Silent()
    loop.fit(t, log, None)
    assert [row["train/assign_seconds"] for row in log.rows if "train/assign_seconds" in row] == [3, 3]
    (row,) = [row for row in log.rows if "train/loss" in row]
    assert row["train/images_per_second"] == 32


class _Signals(tiny.Silent):
    """Interrupts the run while the images are extracted for the second epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.extractions = 0

    def working(self, what: str, done: int, total: int, speed: float) -> None:
        self.extractions += done >= total
        if self.extractions == 2:
            os.kill(os.getpid(), signal.SIGUSR1)


def test_a_signal_interrupts_extraction_and_nothing_is_lost(tmp_path: Path) -> None:
    whole, log = tiny.training(method="deepcluster"), tiny.Silent()
    loop.fit(whole, log, None)
    first = tiny.training(method="deepcluster")
    with pytest.raises(loop.Interrupted) as left:
        loop.fit(first, _Signals(), tmp_path)
    assert left.value.exit_status == 128 + signal.SIGUSR1
    assert first.state.step == first.method.steps_per_epoch
    second, log_after = tiny.training(method="deepcluster"), tiny.Silent()
    restore(second, tmp_path)
    loop.fit(second, log_after, None)
    assert log.losses()[-len(log_after.losses()) :] == log_after.losses()
    wanted, got = _everything(whole), _everything(second)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
