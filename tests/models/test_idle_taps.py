"""A convolution that bf16 would train incorrectly on a CPU is trained in float32, and no other."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from selfcluster.methods import METHODS
from selfcluster.models.encoders import create_encoder
from selfcluster.models.idle_taps import has_idle_taps, keep_idle_taps_in_float32
from selfcluster.training import loop, step
from tests import tiny

GEOMETRIES = [
    dict(kernel_size=k, stride=s, padding=p, dilation=d)
    for k in (1, 2, 3, 5)
    for s in (1, 2, 3)
    for p in sorted({0, k // 2, k - 1})
    for d in (1, 2)
]
SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (3, 3), (4, 2), (5, 5), (8, 8)]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_idle_taps_are_those_whose_gradient_is_always_0(geometry: dict[str, int]) -> None:
    conv = nn.Conv2d(1, 1, **geometry, bias=False, dtype=torch.float64)
    for size in SIZES:
        if min(n + 2 * geometry["padding"] - geometry["dilation"] * (geometry["kernel_size"] - 1) for n in size) < 1:
            continue  # no output at all
        conv.weight.grad = None
        conv(torch.ones(1, 1, *size, dtype=torch.float64)).sum().backward()
        assert has_idle_taps(conv, *size) == bool((conv.weight.grad == 0).any()), size


def test_same_padding_is_supported() -> None:
    conv = nn.Conv2d(1, 1, 3, padding="same")
    assert has_idle_taps(conv, 1, 1)
    assert not has_idle_taps(conv, 2, 2)
    assert not has_idle_taps(nn.Conv2d(1, 1, 3, padding="valid"), 3, 3)


class _Bf16GradientsOfIdleTaps(TorchDispatchMode):
    """Counts backward passes of bf16 convolutions with idle taps, independent of the kernel that this machine uses."""

    n_bf16, bad = 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.aten.convolution_backward.default and args[0].dtype == torch.bfloat16:
            _, x, weight, _, stride, padding, dilation, *_ = args
            conv = nn.Conv2d(1, 1, tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation))
            self.n_bf16 += 1
            self.bad += has_idle_taps(conv, *x.shape[2:])
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("encoder", "crop_pixels"),
    [
        ("resnet10_small_quarter_s2", (16, 8)),
        ("resnet18_small_quarter", (16, 8)),
        ("resnet18", (32, 16)),
        ("mobilenetv3_small_050", (32, 16)),
    ],
)
def test_no_training_step_takes_a_bf16_gradient_of_an_idle_tap(encoder: str, crop_pixels: tuple[int, int]) -> None:
    t = tiny.training(encoder=encoder, crop_pixels=crop_pixels, precision="bf16")
    batch = next(iter(t.loader.epoch(0, t.method.begin_epoch(0, tiny.no_extract))))
    with _Bf16GradientsOfIdleTaps() as seen:
        step.step(t, batch)
    assert seen.n_bf16 > 3
    assert seen.bad == 0


def test_the_counter_finds_idle_taps() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16), _Bf16GradientsOfIdleTaps() as seen:
        conv(torch.ones(2, 4, 1, 1)).sum().backward()
    assert (seen.n_bf16, seen.bad) == (1, 1)


@contextlib.contextmanager
def _fresh_memory_is_nan() -> Iterator[None]:
    """Let glibc fill each block that it allocates with 0xff bytes, which read as NaN."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-6, 0x100)
    try:
        yield
    finally:
        libc.mallopt(-6, 0)


def _weight_gradient(conv: nn.Conv2d, *, in_bf16: bool) -> torch.Tensor:
    conv.weight.grad = None
    x = torch.randn(16, conv.in_channels, 1, 1, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=in_bf16):
        y = conv(x)
    with _fresh_memory_is_nan() if in_bf16 else contextlib.nullcontext():
        y.backward(torch.ones_like(y))
    return conv.weight.grad


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's mallopt to fill fresh memory")
def test_the_gradient_does_not_depend_on_fresh_memory() -> None:
    conv = nn.Conv2d(32, 64, 3, stride=2, padding=1).to(memory_format=torch.channels_last)
    expected = _weight_gradient(conv, in_bf16=False)
    keep_idle_taps_in_float32(conv)
    for _ in range(5):
        torch.testing.assert_close(_weight_gradient(conv, in_bf16=True), expected, rtol=0.02, atol=0.02)


def test_networks_can_be_copied_and_pickled() -> None:
    encoder = create_encoder("resnet10_small_quarter_s2", (16,))
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        convs = [module for module in other.modules() if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1]
        assert all(module.forward.args == (module,) for module in convs)
        x = torch.rand(2, 3, 16, 16)
        assert torch.equal(other.eval()(x), encoder.eval()(x))


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's mallopt to fill fresh memory")
@pytest.mark.parametrize("method", METHODS)
def test_training_in_bf16_does_not_depend_on_fresh_memory(method: str) -> None:
    losses = []
    for memory in (contextlib.nullcontext, _fresh_memory_is_nan):
        t, log = tiny.training(method=method, precision="bf16", max_steps=4, log_steps=1), tiny.Silent()
        with memory():
            loop.fit(t, log, None)
        losses.append(log.losses())
    assert len(losses[0]) == 4
    assert losses[0] == losses[1]
