"""Threads do as map does, and leave torch's number of threads alone."""

from __future__ import annotations

import threading

import pytest
import torch

from selfcluster.threads import in_threads


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
