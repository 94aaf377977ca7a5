"""The few collectives that the mathematics needs; each is the identity without a process group.

`torchrun ... -m selfcluster train ...` starts one process a device; plain `python` is the same code path with one. The
collectives sit in the mathematics through the functions below, and no user flag decides whether an algorithm is global.
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
"""The package speaks through this, and is heard where a handler asks for level INFO; of several ranks, rank 0 alone speaks."""
logger.addHandler(logging.NullHandler())
logger.addFilter(lambda record: rank() == 0)


def stop() -> None:
    """The process group, if there is one, is gone."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def is_on() -> bool:
    """Whether collectives reach other ranks here."""
    return not _alone and dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's place among the ranks, from 0."""
    return dist.get_rank() if is_on() else 0


def n_ranks() -> int:
    """How many processes work on one global batch."""
    return dist.get_world_size() if is_on() else 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, every collective is the identity: for evaluation and reports, which run on one rank."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def shard_of(n: int) -> slice:
    """This rank's slice of n rows.

    Raises:
        ValueError: n is not a multiple of the ranks.
    """
    share, rest = divmod(n, n_ranks())
    if rest:
        raise ValueError(f"{n} rows do not divide among {n_ranks()} ranks; use a multiple of {n_ranks()}")
    return slice(rank() * share, (rank() + 1) * share)


class _AllReduceSum(torch.autograd.Function):
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
    """The sum over ranks, on every rank; its gradient is the sum of the ranks' gradients."""
    return _AllReduceSum.apply(x) if is_on() else x


@torch.no_grad()
def all_reduce_max(x: Tensor) -> Tensor:
    """The element-wise maximum over ranks, on every rank."""
    if is_on():
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, op=dist.ReduceOp.MAX)
    return x


@torch.no_grad()
def gather_rows(x: Tensor) -> Tensor:
    """Every rank's rows, joined in the order of the ranks; all ranks hold equally many."""
    if not is_on():
        return x
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(n_ranks())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on some rank."""
    return bool(largest(float(flag)))


def total(x: float) -> float:
    """The sum of a number over ranks; exact for whole numbers up to 2^53."""
    return float(all_reduce_sum(_number(x))) if is_on() else x


def largest(x: float) -> float:
    """The largest of the ranks' numbers."""
    return float(all_reduce_max(_number(x))) if is_on() else x


def _number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")


def barrier() -> None:
    """No rank goes on before all are here."""
    if is_on():
        dist.barrier()


@contextlib.contextmanager
def rank_0_first() -> Iterator[None]:
    """Inside, rank 0 has been and gone before the others come: what it downloads, they find."""
    if rank() != 0:
        barrier()
    try:
        yield
    finally:
        if rank() == 0:
            barrier()


def joined(here: dict[int, str]) -> dict[int, str]:
    """Every rank's entries, on every rank."""
    if not is_on():
        return here
    parts: list[dict[int, str]] = [{} for _ in range(n_ranks())]
    dist.all_gather_object(parts, here)
    return {key: value for part in parts for key, value in part.items()}


def of_rank_0(value: T) -> T:
    """What rank 0 holds, on every rank."""
    if not is_on():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
