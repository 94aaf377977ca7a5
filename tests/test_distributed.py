"""Collectives are the identity in one process, and cover the rows of all ranks in several."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from selfcluster import distributed
from tests.ranks import on_ranks


def test_without_a_process_group_collectives_are_the_identity() -> None:
    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    assert not distributed.is_on()
    assert (distributed.rank(), distributed.n_ranks()) == (0, 1)
    assert distributed.all_reduce_sum(x) is x
    assert torch.equal(distributed.all_reduce_max(x), x)
    assert torch.equal(distributed.gather_rows(x), x)
    assert distributed.shard_of(7) == slice(0, 7)
    assert distributed.any_rank(True)
    assert not distributed.any_rank(False)
    distributed.barrier()
    distributed.stop()


def _reduced(x: Tensor) -> dict:
    mine = (x + 10 * distributed.rank()).requires_grad_()
    total = distributed.all_reduce_sum(mine)
    (total * (distributed.rank() + 1)).sum().backward()
    turned = x.T + 10 * distributed.rank()
    return {
        "place": (distributed.rank(), distributed.n_ranks(), distributed.shard_of(6)),
        "sum": total.detach(),
        "gradient": mine.grad,
        "unchanged": mine.detach(),
        "turned": distributed.all_reduce_sum(turned),
        "max": distributed.all_reduce_max(turned * (1 - 2 * distributed.rank())),
        "rows": distributed.gather_rows(turned),
        "any": (distributed.any_rank(distributed.rank() == 1), distributed.any_rank(False)),
    }


def test_two_ranks() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    left, right = on_ranks(_reduced, x)
    assert (left["place"], right["place"]) == ((0, 2, slice(0, 3)), (1, 2, slice(3, 6)))
    assert torch.equal(right["unchanged"], x + 10)
    for rank in (left, right):
        assert torch.equal(rank["sum"], 2 * x + 10)
        assert torch.equal(rank["gradient"], torch.full_like(x, 3)), "the gradients of both ranks, 1 and 2"
        assert torch.equal(rank["turned"], 2 * x.T + 10)
        assert torch.equal(rank["max"], x.T)
        assert torch.equal(rank["rows"], torch.cat([x.T, x.T + 10]))
        assert rank["any"] == (True, False)


def _alone() -> tuple:
    before = distributed.n_ranks()
    with distributed.alone():
        with distributed.alone():
            pass
        x = torch.tensor([float(before)])
        inside = (distributed.is_on(), distributed.rank(), distributed.n_ranks(), distributed.all_reduce_sum(x).item())
    try:
        with distributed.alone():
            raise KeyError
    except KeyError:
        pass
    return inside, distributed.n_ranks()


def test_alone_makes_collectives_the_identity() -> None:
    assert on_ranks(_alone) == [((False, 0, 1, 2.0), 2)] * 2


def _shard_of_odd() -> str:
    with pytest.raises(ValueError, match="7 rows cannot be divided equally among 2 ranks") as error:
        distributed.shard_of(7)
    return str(error.value)


def test_unequal_shards_are_refused() -> None:
    assert "multiple of 2" in on_ranks(_shard_of_odd)[0]
