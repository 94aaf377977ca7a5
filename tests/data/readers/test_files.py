"""Files that are read at any offset: by threads, in other processes, and how many stay open."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from selfcluster.data.readers.files import LruCache, OpenFile

CONTENT = np.random.default_rng(0).integers(0, 256, 100_000, dtype=np.uint8).tobytes()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def test_reads_from_any_offset_up_to_the_end(file: Path) -> None:
    opened = OpenFile(file)
    assert opened.n_bytes() == len(CONTENT)
    assert opened.read(500, 30) == CONTENT[500:530]
    assert opened.read(0, 10) == CONTENT[:10]
    assert opened.read(len(CONTENT) - 5, 30) == CONTENT[-5:]
    assert opened.read(len(CONTENT) + 5, 30) == b""


@pytest.mark.parametrize("has_pread", [True, False])
def test_threads_do_not_disturb_each_other(file: Path, has_pread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_pread:
        monkeypatch.delattr(os, "pread")
    opened, begins = OpenFile(file), np.random.default_rng(1).integers(0, len(CONTENT) - 100, 4000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda begin: opened.read(begin, 100), begins)) == [CONTENT[begin : begin + 100] for begin in begins]


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OpenFile(tmp_path / "nothing")
    gc.collect()  # what was not opened is not closed either


@pytest.mark.skipif(sys.platform != "linux", reason="counts handles in /proc")
def test_few_files_stay_open_and_a_file_in_use_is_not_closed(tmp_path: Path) -> None:
    for name in range(10):
        (tmp_path / str(name)).write_bytes(CONTENT[name:])
    opened, before = LruCache(OpenFile, 3), len(os.listdir("/proc/self/fd"))
    first = opened(tmp_path / "0")
    for name in range(10):
        assert opened(tmp_path / str(name)).read(0, 9) == CONTENT[name : name + 9]
    assert len(os.listdir("/proc/self/fd")) - before == 4
    assert first.read(1, 5) == CONTENT[1:6]
    assert opened(tmp_path / "9") is opened(tmp_path / "9")
    del first, opened
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_value_is_computed_once_for_all_threads() -> None:
    computed = []

    def square(x: int) -> int:
        computed.append(x)
        time.sleep(0.01)
        return x * x

    cache = LruCache(square, 10)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(cache, [3, 3, 3, 3, 4])) == [9, 9, 9, 9, 16]
    assert computed == [3, 4]


def _read(opened: LruCache[OpenFile], path: Path, expected: bytes) -> None:
    sys.exit(0 if opened(path).read(7, 20) == expected else 1)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_another_process_reads_the_same(file: Path, start: str) -> None:
    opened = LruCache(OpenFile, 3)
    assert opened(file).read(0, 1) == CONTENT[:1]
    worker = multiprocessing.get_context(start).Process(target=_read, args=(opened, file, CONTENT[7:27]))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert opened(file).read(3, 2) == CONTENT[3:5]
    assert pickle.loads(pickle.dumps(opened))(file).read(3, 2) == CONTENT[3:5]
