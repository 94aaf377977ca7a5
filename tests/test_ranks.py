"""Ranks that end or hang are named by the others. Each rank of these tests is an object in this process, at a hundredth of the time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from selfcluster.errors import DataError
from selfcluster.ranks import Watch
from selfcluster.training.collapse import require_finite
from tests.ranks import on_ranks

BEAT = 0.02


@pytest.fixture
def store() -> dist.Store:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=5), wait_for_workers=False)


def _watches(store: dist.Store, n: int, timeout: float = 60.0) -> list[Watch]:
    return [Watch(store, rank, n, timeout=timeout, beat=BEAT, host=f"host-{rank // 2}") for rank in range(n)]


def test_a_rank_without_a_sign_of_life_is_named(store: dist.Store) -> None:
    first, lost, last = _watches(store, 3)
    first.start()
    last.start()
    assert first.told(RuntimeError("Connection closed by peer [127.0.0.1]:1")) == (
        f"rank 1 (process {os.getpid()} on host-0) has ended or does not answer; resume from the last checkpoint with --resume"
    )
    assert last.told(RuntimeError("Connection closed by peer [127.0.0.1]:2")) == first.cause(1.0), "one reason for all"
    for watch in (first, lost, last):
        watch.leave()


def test_the_error_of_the_first_rank_that_stops_is_told_to_the_others(store: dist.Store) -> None:
    first, second = _watches(store, 2)
    first.start()
    second.start()
    assert first.told(DataError("too many\nbroken images")) is None
    assert second.told(RuntimeError("Connection reset")) == f"rank 0 (process {os.getpid()} on host-0) stopped: too many broken images"
    first.leave()
    second.leave()


def test_an_error_of_this_rank_alone_remains_what_it_is(store: dist.Store) -> None:
    first, second = _watches(store, 2)
    first.start()
    second.start()
    assert first.told(RuntimeError("out of memory")) is None
    first.leave()
    second.leave()


def test_a_rank_that_has_left_is_not_missed(store: dist.Store) -> None:
    first, second = _watches(store, 2)
    first.start()
    second.leave()
    assert first.cause(5 * BEAT) is None
    first.leave()


def test_one_rank_of_each_machine_speaks(store: dist.Store) -> None:
    assert [watch.is_first() for watch in _watches(store, 4)] == [True, False, True, False]


_WAITS = """
import sys, threading, time
from datetime import timedelta
import torch.distributed as dist
from selfcluster.ranks import Watch
store = dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=False, timeout=timedelta(seconds=5), wait_for_workers=False)
watch = Watch(store, 0, 2, timeout=0.5, beat=0.05, host="here")
watch.start()
print("waiting", flush=True)
time.sleep(60)
"""


def test_a_process_that_waits_for_a_lost_rank_ends_with_one_line() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=5), wait_for_workers=False)
    Watch(store, 1, 2, timeout=60, host="there")
    process = subprocess.Popen([sys.executable, "-c", _WAITS, str(store.port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 4
    assert said == (
        f"selfcluster: error: rank 1 (process {os.getpid()} on there) has ended or does not answer; resume from the last checkpoint with --resume\n"
    )


def _not_finite() -> str:
    import torch

    from selfcluster import distributed

    try:
        require_finite(torch.tensor([1.0, torch.nan if distributed.rank() == 1 else 0.0]), "embeddings", 7, together=True)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_value_that_is_not_finite_on_one_rank_stops_all_at_the_same_step() -> None:
    first, second = on_ranks(_not_finite)
    assert first == second
    assert first.startswith("DivergenceError: embeddings are not finite at step 7")
