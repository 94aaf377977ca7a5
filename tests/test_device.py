"""Choice of the device, mapping in threads, and keeping freed memory."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from selfcluster import distributed
from selfcluster.device import ahead, in_threads, keep_freed_memory, start
from selfcluster.errors import ConfigError


def test_results_come_in_order_and_from_several_threads() -> None:
    met = threading.Barrier(3, timeout=30)
    each = in_threads(3)
    assert list(each(lambda x: (met.wait(), x)[1], range(9))) == list(range(9))


def test_an_exception_is_raised_with_its_result() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(2)(lambda x: 1 // x, [1, 0]))


def test_one_thread_is_map_itself() -> None:
    assert in_threads(1) is map


def test_each_thread_uses_one_torch_thread_and_this_one_is_unchanged() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        each = in_threads(2)
        assert torch.get_num_threads() == 3
        assert set(each(lambda _: torch.get_num_threads(), range(8))) == {1}
        later: list[int] = []
        other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert later == [3]
    finally:
        torch.set_num_threads(before)


def test_items_are_made_ahead_in_order() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(6):
            made.append(item)
            yield item

    taken = ahead(items())
    assert next(taken) == 0
    for _ in range(500):
        if made == [0, 1, 2]:
            break
        time.sleep(0.01)
    assert made == [0, 1, 2]  # two ahead, no more
    assert list(taken) == [1, 2, 3, 4, 5]


def test_an_exception_ahead_is_raised_with_its_item_and_leaving_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    taken = ahead(items())
    assert next(taken) == 1
    with pytest.raises(ZeroDivisionError):
        next(taken)
    left = ahead(iter(range(100)))
    next(left)
    left.close()
    assert not any(thread.name.startswith("selfcluster-ahead") for thread in threading.enumerate())


def test_large_blocks_can_be_allocated_and_freed() -> None:
    for _ in range(2):
        keep_freed_memory()
        blocks = [torch.ones(1 << 22) for _ in range(3)]
        assert all(float(block.sum()) == 1 << 22 for block in blocks)


def test_nothing_happens_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("there is no glibc"))
    keep_freed_memory()


def test_start_returns_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start("cpu") == torch.device("cpu")
    assert start("auto").type in ("cpu", "cuda", "mps")
    assert not distributed.is_on()


@pytest.mark.parametrize("device", ["gpu0", "cpux", "meta", ""])
def test_start_refuses_unknown_devices(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # must fail before it waits for the other ranks
    with pytest.raises(ConfigError, match="unknown device"):
        start(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_start_refuses_missing_devices() -> None:
    with pytest.raises(ConfigError, match="--device cpu"):
        start("cuda:3")
