from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selfcluster.methods.memory import MemoryBank, Queue
from selfcluster.models.rows import Rows
from tests.ranks import on_ranks

BATCH, N_BATCHES, N_ASSIGN, WIDTH = 4, 3, 2, 2


def _queue() -> Queue:
    return Queue(length=N_BATCHES * BATCH, batch=BATCH, n_assign=N_ASSIGN, width=WIDTH, device=torch.device("cpu"))


def _batch(step: int) -> Tensor:
    """Embeddings that encode step, assign crop and place in the global batch."""
    places = 100 * step + 10 * torch.arange(N_ASSIGN)[:, None] + torch.arange(BATCH)
    return torch.stack([places, -places], dim=-1).float()


def _filled(n_steps: int) -> Queue:
    queue = _queue()
    for step in range(1, n_steps + 1):
        queue.push(_batch(step))
    return queue


def test_newest_batch_is_in_front_and_the_oldest_is_dropped() -> None:
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


# ---- the bank -----------------------------------------------------------------------------------------------------------------

TRAINED_ON = np.array([0, 2, 3, 5, 8, 9, 11])
"""An odd number of images, with gaps, as when some are held out."""
BATCHES = [[9, 0, 3, 11], [2, 3, 8, 0], [9, 9, 2, 9]]
"""Each of two ranks sees images that the other owns; 3 and 0 occur twice, 9 three times in one batch and on both ranks; 5 never."""


def _bank(trained_on: np.ndarray = TRAINED_ON) -> MemoryBank:
    return MemoryBank(trained_on, n_assign=N_ASSIGN, width=WIDTH, device=torch.device("cpu"))


def _written(step: int, place: int, crop: int) -> list[float]:
    """The embedding at this place of the global batch of a step."""
    number = 100.0 * (step + 1) + 10 * crop + place
    return [number, -number]


def _batch_for_bank(step: int) -> tuple[Tensor, Tensor]:
    places = range(len(BATCHES[step]))
    embeddings = torch.tensor([[_written(step, place, crop) for place in places] for crop in range(N_ASSIGN)])
    return torch.tensor(BATCHES[step]), embeddings


LAST = {0: (1, 3), 2: (2, 2), 3: (1, 1), 8: (1, 2), 9: (2, 3), 11: (0, 3)}
"""Step and place of the last visit of each image."""


def test_the_bank_keeps_the_last_embeddings_of_each_image_that_was_visited() -> None:
    bank = _bank()
    assert not bank.is_begun
    assert bank.rows(0)[0].shape == (0, WIDTH)
    for step in range(3):
        bank.write(*_batch_for_bank(step))
    assert bank.is_begun
    for crop in range(N_ASSIGN):
        values, index = bank.rows(crop)
        assert index.tolist() == sorted(LAST), "image 5 was never visited"
        assert values.tolist() == [_written(*LAST[image], crop) for image in sorted(LAST)]


def test_more_heads_than_assign_crops_share_them() -> None:
    bank = _bank()
    bank.write(*_batch_for_bank(0))
    assert torch.equal(bank.rows(2)[0], bank.rows(0)[0])
    assert torch.equal(bank.rows(3)[0], bank.rows(1)[0])
    assert not torch.equal(bank.rows(1)[0], bank.rows(0)[0])


def test_an_index_of_minus_one_writes_nothing() -> None:
    bank = _bank()
    bank.write(torch.tensor([-1, 5, -1]), torch.arange(12.0).reshape(N_ASSIGN, 3, WIDTH))
    values, index = bank.rows(0)
    assert index.tolist() == [5]
    assert values.tolist() == [[2.0, 3.0]]


def test_the_bank_keeps_float32_copies_without_gradient() -> None:
    bank, embeddings = _bank(), torch.ones(N_ASSIGN, 1, WIDTH, requires_grad=True)
    bank.write(torch.tensor([3]), embeddings)
    with torch.no_grad():
        embeddings.zero_()
    assert bank.rows(0)[0].tolist() == [[1.0, 1.0]]
    assert not bank.embeddings.requires_grad
    bank.write(torch.tensor([3]), torch.full((N_ASSIGN, 1, WIDTH), 0.5, dtype=torch.bfloat16).float())
    assert bank.embeddings.dtype == torch.float32


def test_filling_the_bank_is_writing_every_row() -> None:
    n = 5000
    trained_on = np.arange(0, 2 * n, 2)
    bank, index = _bank(trained_on), np.delete(trained_on, [7, 4321])
    values = np.stack([index, -index, 2 * index, 0 * index], axis=1).astype(np.float32).reshape(-1, N_ASSIGN, WIDTH)
    bank.fill(Rows(index, values))
    assert bank.is_begun
    for crop in range(N_ASSIGN):
        kept, kept_index = bank.rows(crop)
        assert np.array_equal(kept_index.numpy(), index)
        assert np.array_equal(kept.numpy(), values[:, crop])


def test_round_trip_of_the_bank_on_one_process() -> None:
    bank, again = _bank(), _bank()
    for step in range(2):
        bank.write(*_batch_for_bank(step))
    state = bank.global_state()
    bank.write(*_batch_for_bank(2))
    again.load_global_state(state)
    assert again.is_begun
    assert again.rows(0)[1].tolist() == [0, 2, 3, 8, 9, 11]
    again.write(*_batch_for_bank(2))
    for name, value in bank.global_state().items():
        assert torch.equal(value, again.global_state()[name])
    empty = _bank()
    empty.load_global_state(_bank().global_state())
    assert not empty.is_begun


def _bank_of_ranks() -> tuple[dict[str, Tensor], list[Tensor], list[int]]:
    from selfcluster import distributed

    bank = _bank()
    for step in range(3):
        index, embeddings = _batch_for_bank(step)
        mine = distributed.shard_of(len(index))
        bank.write(index[mine], embeddings[:, mine])
    values, index = bank.rows(1)
    return bank.global_state(), [values], index.tolist()


def _bank_loaded(state: dict[str, Tensor]) -> tuple[list[float], list[int], dict[str, Tensor]]:
    bank = _bank()
    bank.load_global_state(state)
    assert bank.is_begun, "on every rank, whether or not its own share is empty"
    values, index = bank.rows(1)
    return values[:, 0].tolist(), index.tolist(), bank.global_state()


def test_two_ranks_share_the_bank_of_one_and_any_number_loads_it() -> None:
    alone = _bank()
    for step in range(3):
        alone.write(*_batch_for_bank(step))
    values, index = alone.rows(1)
    ranks = on_ranks(_bank_of_ranks)
    assert torch.equal(torch.cat([values for _, (values,), _ in ranks]), values)
    assert [image for _, _, own in ranks for image in own] == index.tolist()
    for state, _, _ in ranks:
        assert all(torch.equal(state[name], value) for name, value in alone.global_state().items())
    for loaded in ([_bank_loaded(ranks[0][0])], on_ranks(_bank_loaded, ranks[1][0]), on_ranks(_bank_loaded, ranks[0][0], n=3)):
        assert [image for _, own, _ in loaded for image in own] == index.tolist()
        assert [value for own, _, _ in loaded for value in own] == values[:, 0].tolist()
        for _, _, state in loaded:
            assert all(torch.equal(state[name], value) for name, value in alone.global_state().items())


def _fill_on_ranks(splits: list[int]) -> list[dict[str, Tensor]]:
    from selfcluster import distributed

    states = []
    for first in splits:
        index = np.delete(np.arange(5001), 2500)
        mine = index[:first] if distributed.rank() == 0 else index[first:]
        bank = _bank(np.arange(5001))
        bank.fill(Rows(mine, np.stack([mine] * N_ASSIGN * WIDTH, axis=1).astype(np.float32).reshape(-1, N_ASSIGN, WIDTH)))
        states.append(bank.global_state())
    return states


def test_ranks_may_fill_the_bank_with_different_numbers_of_rows_or_none() -> None:
    for states in on_ranks(_fill_on_ranks, [400, 5000]):
        for state in states:
            assert (state["is_filled"] == 0).nonzero().flatten().tolist() == [2500]
            wanted = torch.arange(5001.0)
            wanted[2500] = 0
            assert torch.equal(state["embeddings"][1, :, 0], wanted)
