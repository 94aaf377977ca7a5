from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selfcluster.optim import (
    ParameterGroup,
    build_optimizers,
    clip_gradients,
    constant,
    cosine,
    forget,
    load_state_by_name,
    set_lr,
    state_by_name,
    update,
)
from tests import reference

KINDS = pytest.mark.parametrize("kind", ["lars", "sgd", "adamw"])


def _group(parameters: list[nn.Parameter], kind: str = "lars", name: str = "model", **changed: object) -> ParameterGroup:
    given: dict = dict(schedule=constant(0.1), momentum=0.9, weight_decay=1e-4) | changed
    return ParameterGroup(name, parameters, kind, **given)  # type: ignore[arg-type]


def _path(parameter: Tensor, gradients: list[Tensor], **settings: object) -> list[Tensor]:
    """Return the parameter after each step."""
    p = nn.Parameter(parameter.clone())
    optimizers = build_optimizers([_group([p], **settings)])
    path = []
    for step, gradient in enumerate(gradients):
        p.grad = gradient.clone()
        set_lr(optimizers, step)
        update(optimizers)
        path.append(p.detach().clone())
    return path


# ---- LARS ---------------------------------------------------------------------------------------------------------------------


def test_lars_exact_values() -> None:
    start, gradient = torch.tensor([3.0, 4.0], dtype=torch.float64), torch.tensor([0.6, 0.8], dtype=torch.float64)
    path = _path(start, [gradient] * 3, schedule=constant(4.8), momentum=0.9, weight_decay=1e-6)
    expected = [[2.985600000, 3.980800000], [2.958309120, 3.944412161], [2.919547445, 3.892729927]]
    np.testing.assert_allclose(torch.stack(path).numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-6, 0.1])
def test_lars_equals_the_naive_loop(weight_decay: float) -> None:
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    gradients = [torch.randn(4, 3, generator=draw, dtype=torch.float64) for _ in range(5)]
    path = _path(start, gradients, schedule=constant(2.0), weight_decay=weight_decay)
    expected = reference.lars(start.numpy(), [g.numpy() for g in gradients], lr=2.0, momentum=0.9, weight_decay=weight_decay)
    np.testing.assert_allclose(torch.stack(path).numpy(), np.stack(expected), rtol=1e-10)


def test_lars_adapts_biases_too_and_takes_the_raw_gradient_at_zero() -> None:
    gradient = torch.tensor([0.3, 0.4])
    (bias,) = _path(torch.tensor([0.0, 2.0]), [gradient], schedule=constant(1.0), weight_decay=0.0)
    torch.testing.assert_close(bias, torch.tensor([0.0, 2.0]) - 0.001 * 2 / 0.5 * gradient)
    (zero,) = _path(torch.zeros(2), [gradient], schedule=constant(1.0))
    torch.testing.assert_close(zero, -gradient)


def test_lars_barely_moves_without_gradient() -> None:
    (still,) = _path(torch.ones(2), [torch.zeros(2)], schedule=constant(1.0), weight_decay=1e-6)
    assert torch.isfinite(still).all()
    torch.testing.assert_close(still, torch.ones(2), rtol=0, atol=2e-6)


# ---- schedules ----------------------------------------------------------------------------------------------------------------


def test_cosine_exact_values() -> None:
    at = cosine(lr=4.8, final_lr=0.0048, total_steps=312 * 100, warmup_steps=312 * 10, warmup_lr=0.3)
    assert at(0) == 0.3
    assert at(1) == pytest.approx(0.30144277, abs=5e-9)
    assert at(3120) == pytest.approx(4.8)
    assert at(17160) == pytest.approx(2.4024)
    assert at(31199) == pytest.approx(0.00480002, abs=5e-9)


def test_cosine_only_falls_after_the_warm_up_and_never_below_the_end() -> None:
    at = cosine(lr=1.0, final_lr=0.1, total_steps=50, warmup_steps=10)
    rates = [at(step) for step in range(60)]
    assert rates[0] == 0
    assert rates[9] == rates[10] == 1
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:50]))
    assert rates[50:] == [pytest.approx(0.1)] * 10


@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (1, 1), (1, 2), (5, 5), (9, 5)])
def test_cosine_of_very_short_runs(warmup: int, total: int) -> None:
    at = cosine(lr=1.0, final_lr=0.1, total_steps=total, warmup_steps=warmup, warmup_lr=0.5)
    assert all(0.1 <= at(step) <= 1 for step in range(total + 1))


# ---- building and updating ----------------------------------------------------------------------------------------------------


def _parameters(n: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((3,), float(i + 1))) for i in range(n)]


def test_one_optimizer_for_each_kind_and_a_schedule_for_each_group() -> None:
    a, b, c = _parameters(3)
    optimizers = build_optimizers(
        [
            _group([a], "lars", "trunk", schedule=lambda step: 1.0 + step),
            _group([b], "sgd", "top", schedule=constant(0.05), momentum=0.0, weight_decay=0.0),
            _group([c], "lars", "head", schedule=constant(0.5), weight_decay=0.3),
        ]
    )
    assert sorted(optimizers) == ["lars", "sgd"]
    assert [group["name"] for group in optimizers["lars"].param_groups] == ["trunk", "head"]
    assert set_lr(optimizers, 4) == 5.0
    assert [group["lr"] for group in optimizers["lars"].param_groups] == [5.0, 0.5]
    assert [group["weight_decay"] for group in optimizers["lars"].param_groups] == [1e-4, 0.3]
    assert optimizers["sgd"].param_groups[0]["lr"] == 0.05
    assert optimizers["sgd"].param_groups[0]["momentum"] == 0.0


@KINDS
def test_update_clears_gradients_and_does_not_change_frozen_parameters(kind: str) -> None:
    trained, frozen = _parameters(2)
    optimizers = build_optimizers([_group([trained, frozen], kind, weight_decay=0.5)])
    for step in range(3):
        if step < 2:
            frozen.grad = None
        else:
            frozen.grad = torch.ones(3)
        trained.grad = torch.ones(3)
        before = frozen.detach().clone()
        set_lr(optimizers, step)
        update(optimizers)
        assert torch.equal(frozen, before) == (step < 2)
    assert trained.grad is None
    assert frozen.grad is None
    assert (trained != 1).all()


@KINDS
def test_a_frozen_parameter_that_thaws_starts_without_momentum(kind: str) -> None:
    late, fresh = _parameters(1)[0], _parameters(1)[0]
    thawed, started = (build_optimizers([_group([p], kind)]) for p in (late, fresh))
    for _ in range(2):
        set_lr(thawed, 0)
        update(thawed)
    for p, optimizers in ((late, thawed), (fresh, started)):
        p.grad = torch.arange(3.0)
        set_lr(optimizers, 0)
        update(optimizers)
    assert torch.equal(late, fresh)


def test_clip_is_over_all_gradients_together() -> None:
    a, b = _parameters(2)
    optimizers = build_optimizers([_group([a], "lars"), _group([b], "sgd")])

    def gradients() -> Tensor:
        assert a.grad is not None
        assert b.grad is not None
        return torch.cat([a.grad, b.grad])

    given = torch.tensor([1.0, -2.0, 2.0, 4.0, 0.0, 0.0])
    for norm, expected in ((0.0, given), (10.0, given), (1.0, given / 5)):
        a.grad, b.grad = given[:3].clone(), given[3:].clone()
        clip_gradients(optimizers, norm)
        torch.testing.assert_close(gradients(), expected, rtol=1e-5, atol=1e-6)


def test_clip_with_frozen_parameters() -> None:
    a, b = _parameters(2)
    optimizers = build_optimizers([_group([a, b])])
    a.grad = torch.tensor([3.0, 4.0, 0.0])
    clip_gradients(optimizers, 1.0)
    torch.testing.assert_close(a.grad, torch.tensor([0.6, 0.8, 0.0]), rtol=1e-5, atol=1e-6)
    assert b.grad is None


# ---- saving -------------------------------------------------------------------------------------------------------------------


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.linear = nn.Linear(8, 4)
        self.frozen = nn.Parameter(torch.ones(2))
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.linear(self.conv(x).relu().mean(dim=(2, 3))).square()


def _net() -> tuple[_Net, dict[str, torch.optim.Optimizer], dict[nn.Parameter, str]]:
    torch.manual_seed(0)
    net = _Net().to(memory_format=torch.channels_last)
    return net, {}, {p: name for name, p in net.named_parameters()}


def _train(net: _Net, optimizers: dict[str, torch.optim.Optimizer], steps: range) -> None:
    for step in steps:
        x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        net(x.contiguous(memory_format=torch.channels_last)).sum().backward()
        set_lr(optimizers, step)
        update(optimizers)


@KINDS
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_loaded_training_continues_bit_for_bit(kind: str, momentum: float) -> None:
    net, _, names = _net()
    optimizers = build_optimizers([_group(list(net.parameters()), kind, momentum=momentum)])
    _train(net, optimizers, range(4))
    state = {name: value.detach().clone().contiguous() for name, value in state_by_name(optimizers, names).items()}
    weights = {name: value.detach().clone().contiguous() for name, value in net.state_dict().items()}
    _train(net, optimizers, range(4, 8))

    again, _, names_again = _net()
    loaded = build_optimizers([_group(list(again.parameters()), kind, momentum=momentum)])
    _train(again, loaded, range(20, 22))  # earlier state must be discarded
    again.load_state_dict(weights)
    load_state_by_name(loaded, names_again, state)
    _train(again, loaded, range(4, 8))

    assert all(torch.equal(left, right) for left, right in zip(net.parameters(), again.parameters(), strict=True))
    after, after_again = state_by_name(optimizers, names), state_by_name(loaded, names_again)
    assert after.keys() == after_again.keys()
    assert all(torch.equal(after[key], after_again[key]) for key in after)
    assert all(after[key].stride() == after_again[key].stride() for key in after)


@KINDS
def test_loading_discards_state_that_was_not_saved(kind: str) -> None:
    net, _, names = _net()
    optimizers = build_optimizers([_group(list(net.parameters()), kind)])
    _train(net, optimizers, range(2))
    assert state_by_name(optimizers, names)
    load_state_by_name(optimizers, names, {})
    assert state_by_name(optimizers, names) == {}


def test_state_is_keyed_by_bare_names() -> None:
    net, _, names = _net()
    optimizers = build_optimizers(
        [_group(list(net.conv.parameters()), "adamw"), _group([*net.linear.parameters(), net.scale], "sgd"), _group([net.frozen], "lars")]
    )
    _train(net, optimizers, range(1))
    assert sorted(state_by_name(optimizers, names)) == [
        *(f"{what}/conv.{which}" for what in ("exp_avg", "exp_avg_sq") for which in ("bias", "weight")),
        *("momentum_buffer/linear.bias", "momentum_buffer/linear.weight", "momentum_buffer/scale"),
        *("step/conv.bias", "step/conv.weight"),
    ]


@KINDS
def test_forget_resets_these_parameters_only(kind: str) -> None:
    net, _, names = _net()
    optimizers = build_optimizers([_group(list(net.conv.parameters()), kind), _group(list(net.linear.parameters()), "sgd", "top")])
    _train(net, optimizers, range(3))
    before = {name: value.clone() for name, value in state_by_name(optimizers, names).items()}
    forgotten = [net.conv.weight, net.linear.bias]
    forget(optimizers, forgotten)
    after = state_by_name(optimizers, names)
    assert {name for name in before if name not in after} == {n for n in before if n.endswith(("/conv.weight", "/linear.bias"))}
    assert len(after) < len(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())

    start, fresh = net.conv.weight.detach().clone(), nn.Parameter(net.conv.weight.detach().clone())
    gradient = torch.randn(fresh.shape, generator=torch.Generator().manual_seed(1))
    alone = build_optimizers([_group([fresh], kind)])
    for p, of in ((net.conv.weight, optimizers), (fresh, alone)):
        p.grad = gradient.clone()
        set_lr(of, 0)
        update(of)
    assert not torch.equal(net.conv.weight, start)
    torch.testing.assert_close(net.conv.weight, fresh)
