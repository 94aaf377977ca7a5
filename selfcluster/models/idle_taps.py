"""A workaround for convolutions over maps so small that oneDNN computes their bf16 weight gradients incorrectly on a CPU.

A tap of a kernel is idle if it reaches no pixel of the map, as eight of the nine taps of a 3 x 3 kernel over a single pixel. The gradient of
its weights is 0. In bf16, oneDNN 3.13 (in torch 2.15) computes it from uninitialized memory, so it may be NaN, or numbers like 1e30. Taps that
reach a pixel, outputs and input gradients are always correct. See docs/log.md, 2026-11-25, for kernels and conditions. Such layers are
computed in float32 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn


def keep_idle_taps_in_float32(network: nn.Module) -> None:
    """Make convolutions with idle taps compute in float32 where bf16 autocast on a CPU would train them; change nothing else."""
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
    """Return whether some tap of the kernel reaches no pixel of a map of this size at any position of the kernel."""
    paddings: Sequence[int] = (0, 0)
    if module.padding == "same":  # at least this much on either side
        paddings = [dilation * (n_taps - 1) // 2 for n_taps, dilation in zip(module.kernel_size, module.dilation, strict=True)]
    elif not isinstance(module.padding, str):
        paddings = module.padding
    for size, n_taps, stride, padding, dilation in zip(
        (height, width), module.kernel_size, module.stride, paddings, module.dilation, strict=True
    ):
        starts = range(-padding, size + padding - dilation * (n_taps - 1), stride)
        if any(not any(0 <= start + tap * dilation < size for start in starts) for tap in range(n_taps)):
            return True
    return False
