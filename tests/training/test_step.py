"""A batch in parts has the same codes, loss and gradients as the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from selfcluster.errors import ConfigError
from selfcluster.methods import METHODS
from selfcluster.training import loop, step
from tests import tiny
from tests.ranks import on_ranks

NO_BATCH_NORM: dict[str, Any] = dict(encoder="test_vit", crop_pixels=(32, 16), optimizer="sgd", lr=0.05, log_steps=1)


def _settings(method: str, **settings: Any) -> dict[str, Any]:
    own = dict(crop_pixels=(32,)) if method == "deepcluster" else dict(head_width=0)
    return {**NO_BATCH_NORM, **own, **settings}


def _trained(method: str, **settings: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    t, log = tiny.training(method=method, **_settings(method, **settings)), tiny.Silent()
    loop.fit(t, log, None, stop_at=None)
    return log.losses(), {name: x.clone() for name, x in t.model.state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_parts_train_as_the_whole_batch_does(method: str) -> None:
    whole, weights = _trained(method, max_steps=3)
    for n in (2, 8):
        parts, of_parts = _trained(method, max_steps=3, accumulate=n)
        assert parts == pytest.approx(whole, rel=1e-4)
        for name, x in weights.items():
            torch.testing.assert_close(of_parts[name], x, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_a_queue_is_filled_by_the_whole_batch() -> None:
    settings = dict(queue_length=8, queue_from_epoch=0, max_steps=4)
    assert _trained("swav", accumulate=4, **settings)[0] == pytest.approx(_trained("swav", **settings)[0], rel=1e-4)


def test_the_first_pass_leaves_running_statistics_unchanged() -> None:
    t = tiny.training(accumulate=2)
    batch = next(iter(t.loader.epoch(0, t.method.begin_epoch(0, tiny.no_extract))))
    norms = [m for m in t.model.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d)]
    before = [(norm.running_mean.clone(), norm.momentum) for norm in norms]
    parts = batch.parts(2)
    step._forward_parts(t, parts)
    for norm, (mean, momentum) in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert norm.momentum == momentum
    step._backward_parts(t, parts, t.method.assign(step._forward_parts(t, parts), batch))
    assert not torch.equal(norms[0].running_mean, before[0][0])


def _on_a_rank(accumulate: int) -> list[float]:
    return _trained("swav", max_steps=3, accumulate=accumulate)[0]


def test_ranks_in_parts_are_one_process() -> None:
    for losses in on_ranks(_on_a_rank, 2):
        assert losses == pytest.approx(_on_a_rank(1), rel=1e-4)


def test_parts_that_do_not_divide_the_batch_are_an_error() -> None:
    with pytest.raises(ConfigError, match="accumulate 3 does not divide the 8 images"):
        tiny.training(accumulate=3)


@pytest.mark.parametrize("encoder", ["resnet10_small_quarter_s2", "test_vit"])
def test_recomputed_activations_give_the_same_gradients(encoder: str) -> None:
    settings: dict[str, Any] = dict(encoder=encoder, crop_pixels=(32, 16), max_steps=3, log_steps=1)
    results = []
    for recompute in (False, True):
        t, log = tiny.training(recompute=recompute, **settings), tiny.Silent()
        loop.fit(t, log, None)
        results.append((log.losses(), t.model.state_dict()))
    (kept, weights), (again, of_again) = results
    assert again == pytest.approx(kept, rel=1e-5)
    for name, x in weights.items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(of_again[name], x, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_an_encoder_that_cannot_recompute_is_an_error() -> None:
    with pytest.raises(ConfigError, match="does not support recomputing its activations"):
        tiny.training(encoder="vgg11", crop_pixels=(32, 32), recompute=True)


def test_a_part_contains_the_rows_of_its_images() -> None:
    t = tiny.training()
    plan = t.method.begin_epoch(0, tiny.no_extract)
    batch = next(iter(t.loader.epoch(0, plan)))
    parts = batch.parts(4)
    assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
    for i, crop in enumerate(batch.crops):
        assert torch.equal(torch.cat([part.crops[i] for part in parts]), crop)
