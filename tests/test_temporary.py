"""Temporary files: reserved, and removed with their owner."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from selfcluster import temporary
from selfcluster.temporary import remove_with, reserve_file


class Owner:
    def __init__(self, path: Path) -> None:
        remove_with(self, path)


def test_a_file_of_the_wanted_size_is_mapped(tmp_path: Path) -> None:
    file = reserve_file(1000, suffix=".rows", folder=tmp_path)
    assert (file.parent, file.suffix, file.stat().st_size) == (tmp_path, ".rows", 1000)
    np.memmap(file, np.uint8, "r+")[999] = 7
    assert file.read_bytes()[999] == 7
    assert reserve_file(0, suffix=".rows", folder=tmp_path).exists()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved")
def test_without_room_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(tmp_path)):
        reserve_file(2**60, suffix=".rows", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="space cannot be reserved")
def test_a_file_system_without_reservation_still_gets_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert reserve_file(1000, suffix=".rows", folder=tmp_path).stat().st_size == 1000


def test_files_and_folders_are_removed_with_their_owner(tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "file").touch()
    file, folder = Owner(tmp_path / "file"), Owner(tmp_path / "folder")
    assert len(list(tmp_path.iterdir())) == 2
    del file, folder
    assert list(tmp_path.iterdir()) == []


def test_another_process_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    owner = Owner(tmp_path / "file")

    def leave() -> None:
        nonlocal owner
        del owner

    worker = multiprocessing.get_context("fork").Process(target=leave)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert (tmp_path / "file").exists()
    del owner
    assert not (tmp_path / "file").exists()


def _hold_until_killed(folder: Path) -> None:
    owner = Owner(reserve_file(10, suffix=".rows", folder=folder))
    os.kill(os.getpid(), signal.SIGKILL)
    del owner


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs file locks")
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_SETTLED_SECONDS", -1.0)
    mine, other = Owner(reserve_file(10, suffix=".rows", folder=tmp_path)), tmp_path / "selfcluster-x.images"
    other.touch()
    killed = multiprocessing.get_context("fork").Process(target=_hold_until_killed, args=(tmp_path,))
    killed.start()
    killed.join()
    assert len(list(tmp_path.glob("*.rows"))) == 2
    last = Owner(reserve_file(10, suffix=".rows", folder=tmp_path))
    assert len(list(tmp_path.glob("*.rows"))) == 2, "that of this process and the new one"
    assert other.exists()
    del mine, last
    assert list(tmp_path.iterdir()) == [other]
