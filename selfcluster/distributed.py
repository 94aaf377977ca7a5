"""Collectives; each is the identity without a process group.

`torchrun ... -m selfcluster train ...` starts one process per device; plain `python` runs the same code with one process. The mathematics
calls these collectives directly, so algorithms are always global, without a setting.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_alone = False

logger = logging.getLogger("selfcluster")
"""Logger of the whole package; progress is at level DEBUG between lines, all else at INFO and above; from rank 0 only."""
logger.addHandler(logging.NullHandler())
logger.addFilter(lambda record: rank() == 0)


def stop() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_on() -> bool:
    """Whether collectives involve other ranks."""
    return not _alone and dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's rank, from 0."""
    return dist.get_rank() if is_on() else 0


def n_ranks() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if is_on() else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Make every collective the identity inside the block, for evaluation and reports, which run on one rank."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def shard_of(n: int) -> slice:
    """Return this rank's slice of n rows.

    Raises:
        ValueError: n is not a multiple of the number of ranks.
    """
    share, rest = divmod(n, n_ranks())
    if rest:
        raise ValueError(f"{n} rows cannot be divided equally among {n_ranks()} ranks; use a multiple of {n_ranks()}")
    return slice(rank() * share, (rank() + 1) * share)


class _AllReduceSum(torch.autograd.Function):
    """The same as torch.distributed.nn.functional.all_reduce, which torch has deprecated without a public replacement."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum over ranks, on every rank; its gradient is the sum of the ranks' gradients."""
    return _AllReduceSum.apply(x) if is_on() else x


@torch.no_grad()
def all_reduce_max(x: Tensor) -> Tensor:
    """Return the element-wise maximum over ranks, on every rank."""
    if is_on():
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all ranks, in the order of the ranks, each of which must have the same number."""
    if not is_on():
        return x
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(n_ranks())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def any_rank(flag: bool) -> bool:
    """Whether the flag is true on any rank."""
    return bool(largest(float(flag)))


def total(x: float) -> float:
    """Return the sum of a number over ranks; exact for integers up to 2^53."""
    return float(all_reduce_sum(_number(x))) if is_on() else x


def largest(x: float) -> float:
    """Return the largest number of any rank."""
    return float(all_reduce_max(_number(x))) if is_on() else x


def _number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")


def barrier() -> None:
    """Wait for all ranks."""
    if is_on():
        dist.barrier()


@contextlib.contextmanager
def rank_0_first() -> Iterator[None]:
    """Run the block on rank 0 before the other ranks, so that they find what it downloads."""
    if rank() != 0:
        barrier()
    try:
        yield
    finally:
        if rank() == 0:
            barrier()


def joined(here: dict[int, str]) -> dict[int, str]:
    """Return the entries of all ranks, on every rank."""
    if not is_on():
        return here
    parts: list[dict[int, str]] = [{} for _ in range(n_ranks())]
    dist.all_gather_object(parts, here)
    return {key: value for part in parts for key, value in part.items()}


def of_rank_0(value: T) -> T:
    """Return rank 0's value, on every rank."""
    if not is_on():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
