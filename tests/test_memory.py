from __future__ import annotations

import torch
from torch import Tensor

from selfcluster.memory import Queue
from tests.ranks import on_ranks

BATCH, N_BATCHES, N_ASSIGN, WIDTH = 4, 3, 2, 2


def _queue() -> Queue:
    return Queue(length=N_BATCHES * BATCH, batch=BATCH, n_assign=N_ASSIGN, width=WIDTH)


def _batch(step: int) -> Tensor:
    """Embeddings that say where they come from: step, assign crop and place in the global batch."""
    places = 100 * step + 10 * torch.arange(N_ASSIGN)[:, None] + torch.arange(BATCH)
    return torch.stack([places, -places], dim=-1).float()


def _filled(n_steps: int) -> Queue:
    queue = _queue()
    for step in range(1, n_steps + 1):
        queue.push(_batch(step))
    return queue


def test_newest_batch_is_in_front_and_the_oldest_goes() -> None:
    queue = _filled(5)
    assert torch.equal(queue.newest(1.0), torch.cat([_batch(5), _batch(4), _batch(3)], dim=1))


def test_a_share_holds_the_newest_batches() -> None:
    queue = _filled(3)
    assert torch.equal(queue.newest(1 / 3), _batch(3))
    assert torch.equal(queue.newest(2 / 3), torch.cat([_batch(3), _batch(2)], dim=1))
    assert queue.newest(0.01).shape == (N_ASSIGN, 0, WIDTH)


def test_is_full_once_every_place_is_taken() -> None:
    assert [_filled(n).is_full for n in range(6)] == [False, False, False, True, True, True]


def test_keeps_a_copy_without_gradient() -> None:
    queue, batch = _queue(), _batch(1).requires_grad_()
    queue.push(batch)
    with torch.no_grad():
        batch.zero_()
    assert torch.equal(queue.newest(1 / 3), _batch(1))
    assert not queue.newest(1.0).requires_grad


def test_saved_state_is_oldest_first_and_no_view() -> None:
    queue = _filled(5)
    state = queue.global_state()
    queue.push(_batch(6))
    assert torch.equal(state["embeddings"], torch.stack([_batch(3), _batch(4), _batch(5)], dim=1))
    assert int(state["n_filled"]) == 3


def test_round_trip_on_one_process() -> None:
    for n_steps in (0, 2, 5):
        queue, again = _filled(n_steps), _queue()
        again.load_global_state(queue.global_state())
        for both in (queue, again):
            both.push(_batch(9))
        assert torch.equal(again.embeddings, queue.embeddings)
        assert again.is_full == queue.is_full
        assert again.n_filled == queue.n_filled


def _state_of_ranks(n_steps: int) -> tuple[dict[str, Tensor], Tensor]:
    from selfcluster import distributed

    queue, mine = _queue(), distributed.shard_of(BATCH)
    for step in range(1, n_steps + 1):
        queue.push(_batch(step)[:, mine])
    return queue.global_state(), queue.newest(1.0)


def _share_of_rank(state: dict[str, Tensor]) -> Tensor:
    queue = _queue()
    queue.load_global_state(state)
    return queue.newest(1.0)


def test_two_ranks_to_one_and_back() -> None:
    ranks = on_ranks(_state_of_ranks, 4)
    alone = _filled(4)
    for state, _ in ranks:
        assert torch.equal(state["embeddings"], alone.global_state()["embeddings"])
    loaded = _queue()
    loaded.load_global_state(ranks[0][0])
    assert torch.equal(loaded.embeddings, alone.embeddings)
    assert loaded.is_full
    shares = on_ranks(_share_of_rank, loaded.global_state())
    assert all(torch.equal(share, before) for share, (_, before) in zip(shares, ranks, strict=True))
    assert shares[0][:, :2].tolist() == _batch(4)[:, :2].tolist()
    assert shares[1][:, :2].tolist() == _batch(4)[:, 2:].tolist()
