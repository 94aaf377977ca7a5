"""Convolutions over maps so small that their bf16 weight gradients come out wrong on a CPU.

A tap of a kernel is idle where it reaches no pixel of the map, as eight of nine taps of a 3 x 3 kernel over a single pixel. The
gradient of its weights is 0. In bf16, oneDNN 3.13 (as in torch 2.15) makes it from scratch memory that it has not written, so what
stood there before ends up in the gradient: NaN now and then, or numbers like 1e30. Taps that reach a pixel are always right, and so are
outputs and input gradients. See docs/log.md, 2026-11-25, for kernels and conditions. Here such layers are computed in float32.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn


def keep_idle_taps_in_float32(network: nn.Module) -> None:
    """Compute a convolution with idle taps in float32 wherever bf16 autocast on a CPU would train it; all else stays as it is."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            module.forward = partial(_forward, module)  # type: ignore[method-assign]


def _forward(module: nn.Conv2d, x: Tensor) -> Tensor:
    is_trained_in_bf16 = x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    if is_trained_in_bf16 and has_idle_taps(module, x.shape[-2], x.shape[-1]):
        with torch.autocast("cpu", enabled=False):
            return type(module).forward(module, x.float())
    return type(module).forward(module, x)


def has_idle_taps(module: nn.Conv2d, height: int, width: int) -> bool:
    """Whether some tap of the kernel reaches no pixel of a map of this size, wherever the kernel stands."""
    return any(
        _is_idle(tap * dilation - padding, stride, size, n_outputs=(size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1)
        for size, taps, stride, padding, dilation in zip(
            (height, width), module.kernel_size, module.stride, _padding(module), module.dilation, strict=True
        )
        for tap in range(taps)
    )


def _is_idle(first: int, stride: int, size: int, *, n_outputs: int) -> bool:
    """Whether none of the places first, first + stride, ... lies on the map."""
    return not any(0 <= first + stride * i < size for i in range(n_outputs))


def _padding(module: nn.Conv2d) -> tuple[int, ...]:
    """In pixels; "same" is at least this much on either side."""
    if isinstance(module.padding, str):
        return tuple(d * (k - 1) // 2 * (module.padding == "same") for k, d in zip(module.kernel_size, module.dilation, strict=True))
    return tuple(module.padding)
