"""Training learns, resumes bit for bit, and gives the same losses on two ranks."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from selfcluster import distributed
from selfcluster.data.sources import open_data
from selfcluster.errors import CheckpointError, ConfigError, DataError, DivergenceError
from selfcluster.settings.config import DataSettings, replace
from selfcluster.training import loop
from selfcluster.training.state import Training, build, restore, save
from tests import tiny
from tests.ranks import on_ranks

QUEUE = dict(queue_length=24, queue_from_epoch=1)


def _weights(t: Training) -> dict[str, torch.Tensor]:
    state = {**t.model.state_dict(), **{f"method/{k}": v for k, v in t.method.state_dict().items()}}
    return {name: tensor.clone() for name, tensor in state.items()}


def test_swav_learns_on_digits() -> None:
    """The tiny learning test: neighbors of the trained features share their class far more often than before."""
    from sklearn.datasets import load_digits

    from selfcluster.evaluation import knn
    from selfcluster.models.features import extract_features

    data = open_data("digits", DataSettings())
    t = tiny.training(
        data, n_crops=(2, 2), crop_pixels=(16, 12), area=((0.6, 1.0), (0.35, 0.6)), n_prototypes=30, epsilon=0.02, embedding_width=64,
        head_width=64, batch=64, epochs=4, lr=3.0, freeze_steps=14, flip=0.0, saturation=0.0, hue=0.0, grey=0.0, blur=0.0, brightness=0.4, contrast=0.4,
    )  # fmt: skip
    labels = load_digits().target.astype(np.int64)

    def accuracy() -> float:
        features = extract_features(t.model.encoder, data.images, pixels=16, device=t.device)
        return dict(knn.measure(features[:1200], labels[:1200], features[1200:], labels[1200:]))["eval/knn_top1_k20"]

    before = accuracy()
    log = tiny.Silent()
    loop.fit(t, log, None)
    assert log.losses()[-1] < log.losses()[0] - 0.5
    assert accuracy() > before + 0.1


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_resume_is_bit_identical_in_mid_epoch_with_queue(tmp_path: Path, optimizer: str) -> None:
    lr = {"lars": 1.0, "sgd": 0.1, "adamw": 1e-3}[optimizer]
    settings = dict(optimizer=optimizer, lr=lr, **QUEUE)
    whole, log = tiny.training(**settings), tiny.Silent()
    loop.fit(whole, log, None)
    assert whole.total_steps == 16
    assert whole.method.queue.is_full

    first = tiny.training(**settings)
    with pytest.raises(loop.Interrupted):
        loop.fit(first, tiny.Silent(), tmp_path, stop_at=6)
    second, log_after = tiny.training(**settings), tiny.Silent()
    restore(second, tmp_path)
    assert (second.state.epoch, second.state.step, second.state.step_in_epoch) == (1, 6, 2)
    loop.fit(second, log_after, None)

    assert log.losses()[3:] == log_after.losses()
    wanted, got = _weights(whole), _weights(second)
    assert wanted.keys() == got.keys()
    for name in wanted:
        assert torch.equal(wanted[name], got[name]), name


def test_a_checkpoint_in_mid_epoch_without_its_plan_is_refused(tmp_path: Path) -> None:
    t = tiny.training()
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), None, stop_at=6)
    t.state.plan = None
    save(t, tmp_path)
    with pytest.raises(CheckpointError, match=r"step 6 in .* lacks the image order of its epoch"):
        restore(tiny.training(), tmp_path)


@pytest.mark.parametrize("stop_at", [4, 8])
def test_resume_at_the_end_of_an_epoch(tmp_path: Path, stop_at: int) -> None:
    whole = tiny.training()
    loop.fit(whole, tiny.Silent(), None)
    first = tiny.training()
    with pytest.raises(loop.Interrupted):
        loop.fit(first, tiny.Silent(), tmp_path, stop_at=stop_at)
    second = tiny.training()
    restore(second, tmp_path)
    loop.fit(second, tiny.Silent(), None)
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole).values(), _weights(second).values(), strict=True))


@pytest.mark.parametrize(("method", "epochs"), [("deepcluster", 2), ("deepcluster-v2", 2), ("deepcluster-v2", 0), ("sela-v2", 2)])
def test_resume_while_first_labels_last(tmp_path: Path, method: str, epochs: int) -> None:
    def build() -> Training:
        return tiny.training(None, method, first_labels="patches", first_label_epochs=epochs)

    whole, first, second = build(), build(), build()
    loop.fit(whole, tiny.Silent(), None)
    with pytest.raises(loop.Interrupted):
        loop.fit(first, tiny.Silent(), tmp_path, stop_at=6)
    restore(second, tmp_path)
    loop.fit(second, tiny.Silent(), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole).values(), _weights(second).values(), strict=True))


def test_workers_and_resume_change_nothing_on_a_folder_with_a_broken_image(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    data = tiny.folder_of_images(folder)
    ends = []
    for workers in (0, 2):
        whole = tiny.training(data, workers=workers, epochs=2)
        loop.fit(whole, tiny.Silent(), None)
        assert list(whole.loader.broken) == [7]
        ends.append(_weights(whole))
        run = tmp_path / f"run{workers}"
        first = tiny.training(data, workers=workers, epochs=2)
        with pytest.raises(loop.Interrupted):
            loop.fit(first, tiny.Silent(), run, stop_at=4)
        second = tiny.training(data, workers=workers, epochs=2)
        restore(second, run)
        assert list(second.loader.broken) == list(first.loader.broken)
        loop.fit(second, tiny.Silent(), None)
        ends.append(_weights(second))
    for other in ends[1:]:
        assert all(torch.equal(ends[0][name], other[name]) for name in ends[0])


def _losses_on_a_rank(settings: dict) -> list[float]:
    t = build(tiny.config(**settings), tiny.data(), torch.device("cpu"))
    log = tiny.Silent()
    loop.fit(t, log, None)
    return log.losses()


def test_two_ranks_give_the_losses_of_one_process() -> None:
    settings = dict(batch=16, max_steps=5, log_steps=1, epochs=20, lr=0.5, queue_length=16, queue_from_epoch=1)
    alone = _losses_on_a_rank(settings)
    left, right = on_ranks(_losses_on_a_rank, settings)
    assert len(alone) == 5
    assert left == right
    np.testing.assert_allclose(left, alone, rtol=1e-4)


def _train_part(settings: dict, folder: str, stop_at: int | None) -> list[float]:
    t = build(tiny.config(**settings), tiny.data(), torch.device("cpu"))
    log = tiny.Silent()
    if (Path(folder) / "checkpoints").exists():
        restore(t, Path(folder))
    with contextlib.suppress(loop.Interrupted):
        loop.fit(t, log, Path(folder) if stop_at else None, stop_at=stop_at)
    return log.losses()


def test_a_run_of_two_ranks_is_resumed_by_one(tmp_path: Path) -> None:
    settings = dict(batch=16, log_steps=1, epochs=5, lr=0.5, queue_length=32, queue_from_epoch=0)
    whole = _losses_on_a_rank(settings)
    on_ranks(_train_part, settings, str(tmp_path), 5)
    rest = _train_part(settings, str(tmp_path), None)
    np.testing.assert_allclose(rest, whole[5:], rtol=1e-4)


def _build_with_batch(batch: int) -> str:
    try:
        build(tiny.config(batch=batch), tiny.data(), torch.device("cpu"))
    except ConfigError as error:
        return str(error)
    return "built"


def test_a_batch_that_the_ranks_do_not_divide_is_refused() -> None:
    said = on_ranks(_build_with_batch, 7)
    assert said == ["batch 7 is not divisible by the 2 ranks; set --batch 8"] * 2


def test_fewer_images_than_the_batch_is_refused() -> None:
    with pytest.raises(DataError, match=r"36 images are fewer than the batch of 64; set --batch 36 or less"):
        tiny.training(batch=64)


def test_a_loss_that_is_not_finite_stops_before_a_checkpoint_is_overwritten(tmp_path: Path) -> None:
    settings = dict(lr=1e30, optimizer="sgd", log_steps=1000, checkpoint_minutes=0.0)
    bad = tiny.training(**settings)
    with pytest.raises(DivergenceError, match="not finite"):
        loop.fit(bad, tiny.Silent(), tmp_path)
    if (tmp_path / "checkpoints").exists():
        again = tiny.training(**settings)
        restore(again, tmp_path)
        assert all(torch.isfinite(p).all() for p in again.model.parameters())


def test_losses_are_checked_before_a_checkpoint_is_written(tmp_path: Path) -> None:
    t = tiny.training(log_steps=1000)
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), tmp_path, stop_at=3)
    t.watch._unread.append(torch.tensor([float("nan"), 0.0, 0.0]))
    t.state.step = 4
    with pytest.raises(DivergenceError, match="the loss is nan"):
        save(t, tmp_path)
    assert json.loads((tmp_path / "checkpoints" / "last.json").read_text())["step"] == 3


def test_frozen_prototypes_do_not_move_and_then_do() -> None:
    t = tiny.training(freeze_steps=6, weight_decay=0.1)
    start = t.model.prototypes.weight.clone()
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), None, stop_at=6)
    assert torch.allclose(t.model.prototypes.weight, start, atol=1e-6)
    t.state.plan = t.method.begin_epoch(1, tiny.no_extract)
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), None, stop_at=8)
    moved = t.model.prototypes.weight
    assert not torch.allclose(moved, start, atol=1e-4)
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(8))


def test_every_row_has_the_documented_metrics() -> None:
    t, log = tiny.training(epochs=2), tiny.Silent()
    loop.fit(t, log, None)
    row = next(row for row in log.rows if "train/loss" in row)
    assert set(row) == {
        "step", "epoch", "train/loss", "train/lr", "train/images_per_second", "train/data_wait",
        "collapse/code_entropy", "collapse/mean_embedding", "collapse/prototypes_used",
    }  # fmt: skip
    assert [row["epoch"] for row in log.rows if "collapse/rankme" in row] == [0, 1]


def test_a_vit_trains_on_two_sizes_of_crop() -> None:
    t = tiny.training(encoder="vit_tiny_patch16_224", crop_pixels=(32, 16), max_steps=2, epochs=1)
    loop.fit(t, tiny.Silent(), None)
    assert t.state.step == 2


@pytest.mark.parametrize(
    "settings",
    [
        dict(precision="bf16", crop_pixels=(32, 16)),
        dict(clip_norm=0.1),
        dict(n_crops=(2, 1, 1), crop_pixels=(16, 12, 8), area=((0.5, 1.0), (0.3, 0.5), (0.1, 0.3))),
        dict(head_width=0),
        dict(warmup_epochs=1.0),
    ],
)
def test_variants_train(settings: dict) -> None:
    t, log = tiny.training(epochs=1, **settings), tiny.Silent()
    loop.fit(t, log, None)
    assert all(math.isfinite(loss) for loss in log.losses())


def test_one_process_needs_no_process_group() -> None:
    assert distributed.n_ranks() == 1
    assert not distributed.is_on()
    assert replace(tiny.config(), {}) == tiny.config()


@pytest.mark.parametrize("settings", [dict(epochs=2), dict(epochs=9, max_steps=6)])
def test_a_finished_run_does_not_train_on(tmp_path: Path, settings: dict) -> None:
    done = tiny.training(**settings)
    loop.fit(done, tiny.Silent(), tmp_path)
    again, log = tiny.training(**settings), tiny.Silent()
    restore(again, tmp_path)
    loop.fit(again, log, tmp_path)
    assert again.state.step == done.total_steps
    assert log.rows == []
    assert all(torch.equal(a, b) for a, b in zip(_weights(done).values(), _weights(again).values(), strict=True))
