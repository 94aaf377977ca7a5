"""The device is found or refused; threads do as map does; keeping freed memory does no harm."""

from __future__ import annotations

import sys
import threading

import pytest
import torch

from selfcluster import distributed
from selfcluster.device import in_threads, keep_freed_memory, start
from selfcluster.errors import ConfigError


def test_results_come_in_order_and_from_several_threads() -> None:
    met = threading.Barrier(3, timeout=30)
    each = in_threads(3)
    assert list(each(lambda x: (met.wait(), x)[1], range(9))) == list(range(9))


def test_what_a_call_raises_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_threads(2)(lambda x: 1 // x, [1, 0]))


def test_one_thread_is_map_itself() -> None:
    assert in_threads(1) is map


def test_each_thread_works_alone_and_this_one_as_before() -> None:
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


def test_large_blocks_come_and_go_as_before() -> None:
    for _ in range(2):
        keep_freed_memory()
        blocks = [torch.ones(1 << 22) for _ in range(3)]
        assert all(float(block.sum()) == 1 << 22 for block in blocks)


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("ctypes.CDLL", lambda *_: pytest.fail("there is no glibc to ask"))
    keep_freed_memory()


def test_start_gives_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert start("cpu") == torch.device("cpu")
    assert start("auto").type in ("cpu", "cuda", "mps")
    assert not distributed.is_on()


@pytest.mark.parametrize("device", ["gpu0", "cpux", "meta", ""])
def test_start_refuses_unknown_devices(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # must fail before it waits for the other ranks
    with pytest.raises(ConfigError, match="unknown device"):
        start(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_start_refuses_devices_that_are_not_here() -> None:
    with pytest.raises(ConfigError, match="--device cpu"):
        start("cuda:3")
