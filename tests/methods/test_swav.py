from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from selfcluster.clustering.sinkhorn import sinkhorn
from selfcluster.data.loader import Batch
from selfcluster.methods import METHODS
from selfcluster.methods.swav import SwAV
from selfcluster.models.model import Outputs
from selfcluster.settings.config import replace
from tests import tiny

B = 8


def _method(**settings: object) -> SwAV:
    t = tiny.training(**settings)
    assert isinstance(t.method, SwAV)
    return t.method


def _outputs(method: SwAV, seed: int) -> tuple[Outputs, Batch]:
    z = normalize(torch.randn(4, B, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)
    out = Outputs(features=torch.zeros(2, B, 4), embeddings=z, scores=[z @ method.model.prototypes.weight.detach().T])
    return out, Batch(index=torch.arange(B), crops=[])


def test_codes_are_sinkhorn_of_each_large_crop() -> None:
    method = _method()
    out, batch = _outputs(method, 0)
    codes = method.assign(out, batch).codes
    assert codes.shape == (2, B, 8)
    for crop in range(2):
        assert torch.equal(codes[crop], sinkhorn(out.scores[0][crop], epsilon=0.05, iterations=3))
    assert not codes.requires_grad


def test_the_queue_joins_when_full_and_in_its_epoch_with_a_growing_share() -> None:
    method = _method(queue_length=32, queue_from_epoch=2)
    shares = []
    for step in range(16):
        out, batch = _outputs(method, step)
        shares.append(method.queue_share())
        alone = torch.stack([sinkhorn(s) for s in out.scores[0][:2]])
        assert torch.equal(method.assign(out, batch).codes, alone) == (shares[-1] == 0)
        method.after_update(out, batch, step)
    assert shares == [0] * 8 + [0.25, 0.5, 0.75] + [1.0] * 5


def test_with_the_queue_codes_are_the_last_rows_of_sinkhorn_over_both() -> None:
    method = _method(queue_length=16, queue_from_epoch=0)
    seen: list[torch.Tensor] = []
    for step in range(method.steps_per_epoch):
        out, batch = _outputs(method, step)
        method.assign(out, batch)
        method.after_update(out, batch, step)
        seen = [out.embeddings[:2], *seen[:1]]
    out, batch = _outputs(method, 9)
    for crop in range(2):
        queued = torch.cat([embeddings[crop] for embeddings in seen]) @ method.model.prototypes.weight.T
        wanted = sinkhorn(torch.cat([queued, out.scores[0][crop]]))[-B:]
        torch.testing.assert_close(method.assign(out, batch).codes[crop], wanted)


def test_the_plan_is_every_image_once_shuffled_anew_each_epoch() -> None:
    method = _method()
    first, again, second = (method.begin_epoch(epoch, tiny.no_extract).order for epoch in (0, 0, 1))
    assert sorted(first) == list(range(36))
    assert (first == again).all()
    assert (first != second).any()


def test_held_out_images_are_never_trained_on() -> None:
    t = tiny.training(test_share=0.25)
    assert len(t.method.trained_on) == 27
    held_out = set(range(36)) - set(t.method.trained_on.tolist())
    for batch in t.loader.epoch(0, t.method.begin_epoch(0, tiny.no_extract)):
        assert not held_out & set(batch.index.tolist())


def test_state_is_complete_after_init() -> None:
    method = _method(queue_length=32)
    state = method.state_dict()
    other = _method(queue_length=32)
    out, batch = _outputs(method, 0)
    method.after_update(out, batch, 0)
    other.load_state_dict(method.state_dict())
    assert state.keys() == method.state_dict().keys() == {"step", "embeddings", "n_filled"}
    for name, value in method.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_prototypes_have_unit_rows_after_every_update() -> None:
    method = _method()
    with torch.no_grad():
        method.model.prototypes.weight.mul_(3)
    out, batch = _outputs(method, 0)
    method.after_update(out, batch, 0)
    torch.testing.assert_close(method.model.prototypes.weight.norm(dim=1), torch.ones(8))


def test_the_method_is_found_by_name() -> None:
    assert METHODS["swav"] is SwAV
    assert replace(tiny.config(), {}).method == "swav"


@pytest.mark.parametrize("crops", [(2, 2), (3, 1)])
def test_all_crops_of_the_first_size_get_codes(crops: tuple[int, int]) -> None:
    t = tiny.training(n_crops=crops)
    batch = next(iter(t.loader.epoch(0, t.method.begin_epoch(0, tiny.no_extract))))
    out = t.model(batch.crops)
    assert len(t.method.assign(out, batch).codes) == crops[0]
    assert len(out.scores[0]) == sum(crops)
    assert np.isfinite(t.method.loss(out, t.method.assign(out, batch)).item())
