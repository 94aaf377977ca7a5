"""Locks, by which two processes do not write to the same place. The system releases them when a process ends, however it does.

Worker processes do not keep the lock of the process that starts them: one that outlives it for a moment would keep a run from being resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from selfcluster.errors import CheckpointError

LOCK = ".selfcluster.lock"
"""File in the folder of a run that a process trains; it stays if the process is killed."""

_open: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()
"""The lock files that this process has open."""


def _close_in_worker() -> None:
    for handle in _open:
        handle.close()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_close_in_worker)


@contextlib.contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder, which is created if need be.

    Raises:
        CheckpointError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK) as is_ours:
        if not is_ours:
            raise _in_use(folder)
        (folder / LOCK).write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid()}))
        yield


def check_unlocked(folder: Path) -> None:
    """Raise CheckpointError if another process holds the lock of a run folder."""
    if (folder / LOCK).is_file():
        with locked(folder / LOCK, keep=True) as is_ours:
            if not is_ours:
                raise _in_use(folder)


def _in_use(folder: Path) -> CheckpointError:
    holder = "another process"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads((folder / LOCK).read_text())
        holder = f"process {int(content['process'])} on {content['host']}"
    return CheckpointError(f"run {str(folder)!r} is in use by {holder}; wait until it ends, stop it, or choose another --out")


@contextlib.contextmanager
def locked(file: Path, *, keep: bool = False) -> Iterator[bool]:
    """Yield whether this process has the lock; always True on systems without file locks.

    Args:
        file: created if need be; not touched otherwise.
        keep: leave the file there afterwards.
    """
    with file.open("ab") as handle:
        _open.add(handle)
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last owner removed the file; another process may have created it again.
            is_ours = file.exists() and file.stat().st_ino == os.fstat(handle.fileno()).st_ino
        except BlockingIOError:
            is_ours = False
        except (ImportError, OSError):  # Windows, and file systems without locks
            is_ours = True
        try:
            yield is_ours
        finally:
            if is_ours and not keep:
                with contextlib.suppress(PermissionError):  # Windows does not remove an open file
                    file.unlink(missing_ok=True)
