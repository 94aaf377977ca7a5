from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from selfcluster.clustering.sinkhorn import sinkhorn
from selfcluster.methods.losses import pseudo_label_loss, swapped_loss
from tests import reference
from tests.ranks import on_ranks


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def _codes(*shape: int) -> Tensor:
    return _random(*shape, seed=1).softmax(dim=-1)


@pytest.mark.parametrize(("n_assign", "temperature", "value"), [(2, 0.1, 10.565323630), (2, 0.2, 5.468507422), (1, 0.1, 11.516626811)])
def test_exact_values(n_assign: int, temperature: float, value: float) -> None:
    scores = torch.from_numpy(reference.cosine_scores(16, 5)).reshape(4, 4, 5)
    codes = torch.stack([sinkhorn(scores[a], epsilon=0.05) for a in range(n_assign)])
    assert swapped_loss(scores, codes, temperature=temperature).item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(("n_crops", "n_assign"), [(2, 2), (2, 1), (5, 2), (3, 3)])
def test_swapped_loss_equals_the_naive_loop(n_crops: int, n_assign: int) -> None:
    scores, codes = _random(n_crops, 3, 6), _codes(n_assign, 3, 6)
    expected = reference.swapped_loss(scores.numpy(), codes.numpy(), 0.3)
    assert swapped_loss(scores, codes, temperature=0.3).item() == pytest.approx(expected, rel=1e-12)


def test_a_crop_is_never_compared_with_itself() -> None:
    scores, codes = _random(3, 4, 5).requires_grad_(), _codes(1, 4, 5)
    swapped_loss(scores, codes).backward()
    assert scores.grad is not None
    assert scores.grad[0].abs().max() < 1e-15
    assert scores.grad[1:].abs().min() > 0


def test_swapped_loss_has_no_gradient_through_codes() -> None:
    scores, codes = _random(3, 4, 5).requires_grad_(), _codes(2, 4, 5).requires_grad_()
    swapped_loss(scores, codes).backward()
    assert scores.grad is not None
    assert codes.grad is None


@pytest.mark.parametrize(("k", "ln_k"), [(3000, 8.0063676), (512, 6.2383246)])
def test_constant_scores_give_ln_k(k: int, ln_k: float) -> None:
    scores = torch.full((4, 2, k), 0.25)
    codes = torch.stack([sinkhorn(s) for s in scores[:2]])
    assert swapped_loss(scores, codes).item() == pytest.approx(ln_k, abs=1e-5)
    assert pseudo_label_loss(scores, torch.tensor([0, k - 1])).item() == pytest.approx(ln_k, abs=1e-5)


@pytest.mark.parametrize(("n_crops", "n_assign"), [(1, 1), (2, 3), (2, 0)])
def test_swapped_loss_refuses_too_few_crops_or_codes(n_crops: int, n_assign: int) -> None:
    with pytest.raises(ValueError, match=f"{n_crops} crops and {n_assign} codes"):
        swapped_loss(_random(n_crops, 3, 4), _codes(n_assign, 3, 4))


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature"):
        swapped_loss(_random(2, 3, 4), _codes(2, 3, 4), temperature=0.0)
    with pytest.raises(ValueError, match="temperature"):
        pseudo_label_loss(_random(3, 4), torch.tensor([0, 1, 2]), temperature=-0.1)


@pytest.mark.parametrize("labels", [[0, 3, 1, 2, 2], [0, -1, 1, -1, 2], [-1, -1, -1, -1, 3]])
def test_pseudo_label_loss_equals_the_naive_loop(labels: list[int]) -> None:
    scores, label = _random(3, 5, 4), torch.tensor(labels)
    expected = reference.pseudo_label_loss(scores.numpy(), np.array(labels), 0.1)
    assert pseudo_label_loss(scores, label, temperature=0.1).item() == pytest.approx(expected, rel=1e-12)
    alone = reference.pseudo_label_loss(scores[:1].numpy(), np.array(labels), 1.0)
    assert pseudo_label_loss(scores[0], label).item() == pytest.approx(alone, rel=1e-12)


def test_images_without_a_label_get_no_gradient() -> None:
    scores = _random(2, 3, 4).requires_grad_()
    pseudo_label_loss(scores, torch.tensor([1, -1, 0])).backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad[:, 1], torch.zeros(2, 4, dtype=torch.float64))
    assert scores.grad[:, [0, 2]].abs().min() > 0


@pytest.mark.parametrize("n_valid", [None, 0.0])
def test_no_label_at_all_gives_zero(n_valid: float | None) -> None:
    scores = _random(3, 4).requires_grad_()
    loss = pseudo_label_loss(scores, torch.full((3,), -1), n_valid=n_valid)
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(3, 4, dtype=torch.float64))


def test_a_batch_without_images_gives_zero() -> None:
    assert pseudo_label_loss(torch.zeros(2, 0, 4), torch.zeros(0, dtype=torch.int64)).item() == 0


def _loss_of_part(scores: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    from selfcluster import distributed

    mine = distributed.shard_of(scores.shape[1])
    part, label = scores[:, mine].clone().requires_grad_(), labels[mine]
    n_valid = distributed.all_reduce_sum((label >= 0).sum()) / distributed.n_ranks()
    loss = pseudo_label_loss(part, label, temperature=0.1, n_valid=n_valid)
    loss.backward()
    assert part.grad is not None
    return loss.item(), part.grad


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, -1, 2, 1], [-1, -1, 2, -1], [-1, -1, -1, -1]])
def test_mean_over_two_ranks_is_the_loss_of_the_joined_batch(labels: list[int]) -> None:
    scores, label = _random(2, 4, 5).requires_grad_(), torch.tensor(labels)
    joined = pseudo_label_loss(scores, label, temperature=0.1)
    joined.backward()
    (left, left_gradient), (right, right_gradient) = on_ranks(_loss_of_part, scores.detach(), label)
    assert (left + right) / 2 == pytest.approx(joined.item(), rel=1e-6)
    torch.testing.assert_close(torch.cat([left_gradient, right_gradient], dim=1) / 2, scores.grad, rtol=1e-6, atol=1e-9)


def test_swapped_loss_of_uniform_predictions_ignores_the_codes() -> None:
    assert swapped_loss(torch.zeros(2, 3, 7), _codes(2, 3, 7).float()).item() == pytest.approx(math.log(7), rel=1e-6)
