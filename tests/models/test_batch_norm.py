"""Batch norm over ranks, and running statistics from the large crops only."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from selfcluster import distributed
from selfcluster.models.batch_norm import BatchNorm, synchronize_batch_norm
from tests.models.test_model import N_IMAGES, _crops, _model
from tests.ranks import on_ranks


@pytest.mark.parametrize("synchronized", [False, True])
def test_running_statistics_follow_the_large_crops_only(synchronized: bool) -> None:
    model, crops = _model(), _crops()
    if synchronized:
        synchronize_batch_norm(model)
    alone = copy.deepcopy(model)
    model(crops)
    alone.encoder(torch.cat(crops[:2]))
    for name, buffer in model.encoder.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, alone.encoder.get_buffer(name))
    assert model.encoder.bn1.momentum == alone.encoder.bn1.momentum == 0.1


def test_small_crops_are_normalized_by_their_own_batch() -> None:
    model, crops = _model(), _crops()
    features = model.encoder(torch.cat(crops[2:]))
    expected = model.head[0](features)
    seen: list[Tensor] = []
    model.head[0].register_forward_hook(lambda _module, _given, out: seen.append(out))
    model(crops)
    torch.testing.assert_close(seen[0][2 * N_IMAGES :], expected, rtol=1e-4, atol=1e-5)


def test_momentum_is_restored_after_an_error() -> None:
    model = _model()

    def fail_on_small(_module: nn.Module, given: tuple[Tensor]) -> None:
        if given[0].shape[-1] == 8:
            raise RuntimeError("small")

    model.encoder.register_forward_pre_hook(fail_on_small)
    with pytest.raises(RuntimeError, match="small"):
        model(_crops())
    assert model.encoder.bn1.momentum == 0.1


def _norm(kind: str) -> nn.Module:
    norm = {"1d": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "act": BatchNormAct2d}[kind](4)
    torch.manual_seed(3)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
        norm.running_mean.normal_()
    return norm


def _input(kind: str) -> Tensor:
    shape = (8, 4) if kind == "1d" else (8, 4, 3, 5)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 30
    return x if kind == "1d" else x.contiguous(memory_format=torch.channels_last)


def _pass(norm: nn.Module, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Output, gradients and statistics of one training step with the loss sum(output * weights)."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * weights).sum().backward()
    assert x.grad is not None
    gradients = {name: p.grad for name, p in norm.named_parameters()}
    return {"out": out.detach(), "x": x.grad, **gradients, **{name: b.clone() for name, b in norm.named_buffers()}}  # type: ignore[dict-item]


KINDS = pytest.mark.parametrize("kind", ["1d", "2d", "act"])


@KINDS
def test_batch_norm_equals_that_of_torch_in_one_process(kind: str) -> None:
    torchs, x = _norm(kind), _input(kind)
    ours = synchronize_batch_norm(_norm(kind))
    assert isinstance(ours, BatchNorm)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    for _ in range(2):
        left, right = _pass(ours, x, weights), _pass(torchs, x, weights)
        assert left.keys() == right.keys()
        for name in left:
            torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.eval()(x), torchs.eval()(x), rtol=1e-5, atol=1e-5)
    assert ours.state_dict().keys() == torchs.state_dict().keys()


@KINDS
def test_batch_norm_keeps_the_precision_of_its_input(kind: str) -> None:
    x = _input(kind).bfloat16()
    out = BatchNorm(_norm(kind))(x)  # type: ignore[arg-type]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), _norm(kind)(x.float()), rtol=2e-2, atol=2e-2)


def _pass_on_rank(kind: str, x: Tensor, weights: Tensor) -> dict[str, Tensor]:
    mine = distributed.shard_of(len(x))
    return _pass(synchronize_batch_norm(_norm(kind)), x[mine], weights[mine])


@KINDS
def test_batch_norm_on_two_ranks_equals_one_on_the_joined_batch(kind: str) -> None:
    x = _input(kind)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    joined = _pass(_norm(kind), x, weights)
    left, right = on_ranks(_pass_on_rank, kind, x, weights)
    for name in ("out", "x"):
        torch.testing.assert_close(torch.cat([left[name], right[name]]), joined[name], rtol=1e-4, atol=1e-4)
    for name in ("weight", "bias"):  # data parallelism adds these up
        torch.testing.assert_close(left[name] + right[name], joined[name], rtol=1e-4, atol=1e-4)
    for rank in (left, right):
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(rank[name], joined[name], rtol=1e-4, atol=1e-4)


def test_every_batch_norm_of_a_network_is_replaced_with_its_state() -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    assert synchronize_batch_norm(model) is model
    assert not [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.state_dict().keys() == before.keys()
    assert all(left is right for left, right in zip(model.parameters(), parameters, strict=True))


def test_a_network_in_eval_mode_stays_in_eval_mode() -> None:
    assert not any(m.training for m in synchronize_batch_norm(_model().eval()).modules())


@pytest.mark.parametrize("settings", [{"affine": False}, {"momentum": None}, {"track_running_stats": False}])
def test_batch_norm_rejects_layers_that_it_cannot_replace(settings: dict) -> None:
    with pytest.raises(ValueError, match="cannot be synchronized over ranks"):
        synchronize_batch_norm(nn.Sequential(nn.BatchNorm2d(4, **settings)))
