"""Rows that are added once, by any process, and read by all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from selfcluster.unpacked import Unpacked

RNG = np.random.default_rng(0)
ROWS: list[bytes | None] = [None if n % 7 == 3 else RNG.bytes(n % 11 * 100) for n in range(60)]


def parts(rows: list[bytes | None], size: int = 4) -> Iterator[pa.Array]:
    for first in range(0, len(rows), size):
        # A slice of a longer array, so that nothing begins at its buffers' beginning.
        yield pa.array([b"before", None, *rows[first : first + size], b"behind"], pa.large_binary())[2:-1]


def test_rows_come_back_in_any_order() -> None:
    unpacked = Unpacked(60)
    for first in (40, 0, 20):
        assert not unpacked.has(first + 5)
        unpacked.add(first, parts(ROWS[first : first + 20]))
        assert unpacked.has(first + 5)
    for row in RNG.permutation(60).tolist():
        assert unpacked.get(row) == ROWS[row]


def test_rows_of_no_bytes_and_a_part_without_any() -> None:
    unpacked = Unpacked(4)
    unpacked.add(0, [pa.array([None, None], pa.large_binary()), pa.array([b"", b""], pa.large_binary())])
    assert [unpacked.get(row) for row in range(4)] == [None, None, b"", b""]
    assert all(unpacked.has(row) for row in range(4))


def test_what_goes_wrong_in_the_middle_adds_nothing() -> None:
    unpacked = Unpacked(60)
    unpacked.add(0, parts(ROWS[:20]))

    def broken() -> Iterator[pa.Array]:
        yield from parts(ROWS[20:28])
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        unpacked.add(20, broken())
    assert not unpacked.has(20)
    unpacked.add(40, parts(ROWS[40:]))
    assert [unpacked.get(row) for row in (*range(20), *range(40, 60))] == ROWS[:20] + ROWS[40:]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of size")
def test_a_full_disk_adds_nothing() -> None:
    unpacked = Unpacked(3)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            unpacked.add(0, [pa.array([bytes(50_000)], pa.large_binary())])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not unpacked.has(0)
    unpacked.add(0, [pa.array([b"a", b"b"], pa.large_binary())])
    assert unpacked.get(1) == b"b"


def _adds(unpacked: Unpacked) -> None:
    unpacked.add(20, parts(ROWS[20:40]))
    sys.exit(0 if unpacked.get(3) == ROWS[3] else 1)


def test_what_one_process_adds_another_reads() -> None:
    unpacked = Unpacked(60)
    unpacked.add(0, parts(ROWS[:20]))
    worker = multiprocessing.Process(target=_adds, args=(unpacked,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert unpacked.path.exists(), "the worker has not taken the file with it"
    unpacked.add(40, parts(ROWS[40:]))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(unpacked.get, range(60))) == ROWS


def test_the_file_goes_with_its_owner() -> None:
    unpacked = Unpacked(3)
    path = unpacked.path
    assert path.stat().st_size == 56
    del unpacked
    assert not path.exists()
    script = "from selfcluster.unpacked import Unpacked; kept = Unpacked(3); print(kept.path)"
    left = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert left.endswith(".unpacked")
    assert not Path(left).exists()
