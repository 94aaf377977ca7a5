"""Batch norm over all ranks, and forward passes that leave running statistics unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfcluster import distributed


@contextlib.contextmanager
def running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Inside, batch norm normalizes by the batch but does not update its running statistics."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm | BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class BatchNorm(nn.Module):
    """Batch norm over the joined batch of all ranks, on any device; torch's SyncBatchNorm does not support CPU tensors.

    It takes over the parameters and buffers of the layer that it replaces, under the same names, and the dropout and activation that timm may
    have fused into it.

    Raises:
        ValueError: the layer has no momentum, scale or running statistics.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        if norm.momentum is None or not norm.affine or not norm.track_running_stats:
            raise ValueError(
                f"{norm} has no momentum, scale or running statistics and cannot be synchronized over ranks; choose another encoder"
            )
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))
        self.drop: nn.Module = getattr(norm, "drop", nn.Identity())
        self.act: nn.Module = getattr(norm, "act", nn.Identity())
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, variance = self._batch_statistics(x) if self.training else (self.running_mean, self.running_var)
        factor = self.weight * torch.rsqrt(variance + self.eps)
        normalized = (x.float() - mean.view(shape)) * factor.view(shape) + self.bias.view(shape)
        return self.act(self.drop(normalized.to(x.dtype)))

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance, in two passes: the difference of two large sums would lose precision."""
        x, axes = x.float(), [axis for axis in range(x.ndim) if axis != 1]
        n = x.numel() // x.shape[1] * distributed.n_ranks()
        mean = distributed.all_reduce_sum(x.sum(axes)) / n
        centered = x - mean.view((1, -1) + (1,) * (x.ndim - 2))
        variance = distributed.all_reduce_sum(centered.square().sum(axes)) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / max(n - 1, 1), self.momentum)
        return mean, variance


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Replace every batch norm by one over all ranks; in place, unless the module is a batch norm itself."""
    if isinstance(module, _BatchNorm):
        return BatchNorm(module)
    for name, child in module.named_children():
        setattr(module, name, synchronize_batch_norm(child))
    return module
