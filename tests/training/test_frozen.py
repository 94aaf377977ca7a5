"""Frozen stages run once for each of the crops that repeat; weights and losses are the same as if they ran every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfcluster.data.dataset import Data
from selfcluster.data.loader import EpochPlan
from selfcluster.errors import ConfigError
from selfcluster.models.frozen import Parts
from selfcluster.training import loop
from selfcluster.training.budget import measure
from selfcluster.training.frozen import FrozenLoader
from selfcluster.training.state import Training, build, restore
from tests import tiny
from tests.ranks import on_ranks

ADAPTING: dict[str, Any] = dict(
    method="deepcluster-v2",
    freeze="but-last",
    repeat_after=2,
    first_labels="neighbors",
    first_label_epochs=0,
    head_width=0,
    embedding_width=0,
    optimizer="adamw",
    lr=1e-3,
    log_steps=1,
)


def _training(data: Data | None = None, **changes: Any) -> Training:
    return tiny.training(data, **{**ADAPTING, **changes})


def _weights(t: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in t.model.state_dict().items()}


def _count(t: Training) -> list[int]:
    """Return a list that grows by the number of images whenever the frozen stages run."""
    run, seen = t.model.run_frozen, []

    def counted(crops: list[Tensor]) -> list[Tensor]:
        seen.append(len(crops[0]))
        return run(crops)

    t.model.run_frozen = counted  # type: ignore[method-assign]
    return seen


def test_frozen_stages_run_once_for_each_view_and_stay_as_they_are() -> None:
    t, log = _training(), tiny.Silent()
    before, seen = _weights(t), _count(t)
    loop.fit(t, log, None)
    after = _weights(t)
    assert t.total_steps == 16
    assert sum(seen) == 2 * 40, "two views of 36 images, filled up to whole batches; four epochs"
    assert [what for what, done, total in log.worked if done == total] == [
        "extracting features",
        "running the frozen stages, view 1 of 2",
        "running the frozen stages, view 2 of 2",
    ]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "head.mean" in changed
    of_encoder = {name for name in changed if name.startswith("encoder.")}
    assert of_encoder
    assert all(name.startswith("encoder.layer4.") and "running" not in name for name in of_encoder)


@pytest.mark.parametrize("crops", [dict(n_crops=(1,), crop_pixels=(16,), area=((0.5, 1.0),)), {}])
def test_batches_are_those_of_the_stages_at_every_step(crops: dict[str, Any]) -> None:
    t = _training(**crops)
    assert isinstance(t.loader, FrozenLoader)
    assert t.loader.keeps
    plan = EpochPlan(np.random.default_rng(0).choice(36, 36))  # some images twice, with another view
    kept = list(t.loader.epoch(3, plan))
    t.loader.keeps = False
    for batch, wanted in zip(kept, t.loader.epoch(3, plan), strict=True):
        assert torch.equal(batch.index, wanted.index)
        assert len(batch.crops) == len(wanted.crops)
        for given, run in zip(batch.crops, wanted.crops, strict=True):
            torch.testing.assert_close(given, run, rtol=2e-3, atol=2e-3)


def test_without_repetition_every_batch_goes_through_the_stages() -> None:
    t = _training(repeat_after=0)
    seen = _count(t)
    loop.fit(t, tiny.Silent(), None)
    assert sum(seen) == 16 * 8


def test_stages_that_cannot_be_cut_off_run_at_every_step_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = _training()
    monkeypatch.setattr("selfcluster.models.model.split", lambda encoder: Parts(torch.nn.Identity(), encoder))
    whole = _training()
    assert isinstance(whole.loader, FrozenLoader)
    assert not whole.loader.keeps
    logs = [tiny.Silent(), tiny.Silent()]
    for t, log in zip((cut, whole), logs, strict=True):
        loop.fit(t, log, None)
    np.testing.assert_allclose(logs[0].losses(), logs[1].losses(), rtol=5e-3)


@pytest.mark.parametrize("stop_at", [3, 6, 13])
def test_resume_is_bit_identical(tmp_path: Path, stop_at: int) -> None:
    whole, first, second = _training(), _training(), _training()
    loop.fit(whole, tiny.Silent(), None)
    with pytest.raises(loop.Interrupted):
        loop.fit(first, tiny.Silent(), tmp_path, stop_at=stop_at)
    restore(second, tmp_path)
    loop.fit(second, tiny.Silent(), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(_weights(whole).values(), _weights(second).values(), strict=True))


def test_broken_images_are_replaced(tmp_path: Path) -> None:
    t = _training(tiny.folder_of_images(tmp_path, broken=(7, 11)))
    loop.fit(t, tiny.Silent(), None)
    assert sorted(t.loader.broken) == [7, 11]
    indices = torch.cat([batch.index for batch in t.loader.epoch(0, EpochPlan(np.arange(24)))])
    assert indices.tolist() == [*range(7), 8, 8, 9, 10, 12, *range(12, 24)]


def _losses_on_a_rank(settings: dict[str, Any]) -> list[float]:
    t, log = build(tiny.config(**settings), tiny.data(), torch.device("cpu")), tiny.Silent()
    loop.fit(t, log, None)
    return log.losses()


def test_two_ranks_give_the_losses_of_one_process() -> None:
    settings = {**ADAPTING, "batch": 16, "max_steps": 5, "epochs": 20}
    alone = _losses_on_a_rank(settings)
    left, right = on_ranks(_losses_on_a_rank, settings)
    assert left == right
    np.testing.assert_allclose(left, alone, rtol=1e-3)


def test_the_cost_contains_running_the_stages_which_is_measured_on_two_batches() -> None:
    t = _training()
    seen = _count(t)
    cost = measure(t)
    assert sum(seen) == 2 * 8
    assert cost.first_assign > cost.assign
    assert cost.step > 0


@pytest.mark.parametrize("method", ["swav", "sela-v2"])
def test_with_the_whole_encoder_frozen_the_head_is_trained(method: str) -> None:
    settings = dict(first_labels="network") if method == "sela-v2" else {}
    t = tiny.training(None, method, freeze="all", repeat_after=2, **settings)
    before = _weights(t)
    loop.fit(t, tiny.Silent(), None)
    changed = {name for name, value in _weights(t).items() if not torch.equal(before[name], value)}
    assert any(name.startswith("head.") for name in changed)
    assert not any(name.startswith("encoder.") for name in changed)


def test_nothing_to_train_and_what_needs_the_whole_encoder_are_refused() -> None:
    with pytest.raises(ConfigError, match="freeze all leaves nothing to train, since there is no head"):
        _training(freeze="all")
