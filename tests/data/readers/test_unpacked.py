"""Groups of rows: read once, by whichever process needs one first."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
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

from selfcluster.data.readers.unpacked import RecentGroups, UnpackedGroups

RNG = np.random.default_rng(0)
N_ROWS = 20
ROWS: list[bytes | None] = [None if n % 7 == 3 else RNG.bytes(n % 11 * 100) for n in range(3 * N_ROWS)]


def read(group: int) -> Iterator[pa.Array]:
    """Slices of longer arrays, so that nothing begins at the start of its buffers."""
    rows = ROWS[N_ROWS * group : N_ROWS * (group + 1)]
    for first in range(0, N_ROWS, 4):
        yield pa.array([b"before", None, *rows[first : first + 4], b"behind"], pa.large_binary())[2:-1]


def never(group: int) -> Iterator[pa.Array]:
    raise AssertionError(f"group {group} was read again")


def all_rows(groups: UnpackedGroups | RecentGroups) -> list[bytes | None]:
    return [row for group in range(3) for row in groups.rows(group, read).to_pylist()]


def test_each_group_is_read_once() -> None:
    groups = UnpackedGroups()
    for group in (2, 0, 1):
        assert groups.rows(group, read).to_pylist() == ROWS[N_ROWS * group : N_ROWS * (group + 1)]
    for row in RNG.permutation(len(ROWS)).tolist():
        assert groups.rows(row // N_ROWS, never)[row % N_ROWS].as_py() == ROWS[row]
    assert pickle.loads(pickle.dumps(pa.concat_arrays([groups.rows(0, never).chunk(0)]))).to_pylist() == ROWS[:4], "rows outlive the map"


def test_rows_without_bytes() -> None:
    batches = [pa.array([None, None], pa.large_binary()), pa.array([b"", b""], pa.large_binary())]
    assert UnpackedGroups().rows(0, lambda _: batches).to_pylist() == [None, None, b"", b""]


def test_an_error_while_reading_keeps_nothing_of_the_group() -> None:
    def broken(group: int) -> Iterator[pa.Array]:
        yield from list(read(group))[:2]
        raise ValueError("damaged")

    groups = UnpackedGroups()
    with pytest.raises(ValueError, match="damaged"):
        groups.rows(1, broken)
    assert list(groups.folder.iterdir()) == []
    assert all_rows(groups) == ROWS


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of size")
def test_a_full_disk_keeps_nothing_of_the_group() -> None:
    groups = UnpackedGroups()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            groups.rows(0, lambda _: [pa.array([bytes(50_000)], pa.large_binary())])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(groups.folder.iterdir()) == []
    assert all_rows(groups) == ROWS


def _adds(groups: UnpackedGroups) -> None:
    sys.exit(0 if groups.rows(0, never)[4].as_py() == ROWS[4] and groups.rows(1, read)[2].as_py() == ROWS[N_ROWS + 2] else 1)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_what_one_process_unpacks_another_maps(start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context(start)
    monkeypatch.setattr(multiprocessing, "Lock", context.Lock)  # as on a system that starts processes in this way
    groups = UnpackedGroups()
    groups.rows(0, read)
    worker = context.Process(target=_adds, args=(groups,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert groups.folder.exists(), "a worker does not remove the folder"
    assert groups.rows(1, never)[2].as_py() == ROWS[N_ROWS + 2]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda row: groups.rows(row // N_ROWS, read)[row % N_ROWS].as_py(), range(len(ROWS)))) == ROWS


def test_the_folder_goes_with_its_owner() -> None:
    groups = UnpackedGroups()
    folder, row = groups.folder, groups.rows(0, read)[4]
    assert folder.exists()
    del groups
    assert not folder.exists()
    assert row.as_py() == ROWS[4]
    script = "from selfcluster.data.readers.unpacked import UnpackedGroups; groups = UnpackedGroups(); print(groups.folder)"
    left = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert left.endswith(".unpacked")
    assert not Path(left).exists()


def test_without_a_folder_the_last_two_groups_are_kept() -> None:
    groups, n_read = RecentGroups(), []

    def counted(group: int) -> Iterator[pa.Array]:
        n_read.append(group)
        return read(group)

    for group in (0, 1, 0, 1, 2, 0):
        assert groups.rows(group, counted)[4].as_py() == ROWS[N_ROWS * group + 4]
    assert n_read == [0, 1, 2, 0]
    assert all_rows(groups) == ROWS
