"""Temporary files that are mapped into memory and removed with the object that uses them.

A process that is killed removes nothing. So it holds a lock on what it uses, which the system releases however it ends, and whoever next creates a
temporary file removes those that nobody holds.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

_PREFIX = "selfcluster-"
_SETTLED_SECONDS = 60.0
"""Age below which a file without a lock may be one that has just been created."""


def reserve_file(n_bytes: int, *, suffix: str, folder: Path | None = None) -> Path:
    """Create a temporary file of this size and reserve its space: a write through a memory map kills the process if the disk is full.

    Args:
        n_bytes: size of the file.
        suffix: end of its name.
        folder: where it is created; None for the system's temporary folder.
    Raises:
        OSError: there is not enough space; no file is left behind.
    """
    _sweep(Path(folder or tempfile.gettempdir()), suffix)
    handle, name = tempfile.mkstemp(prefix=_PREFIX, suffix=suffix, dir=folder)
    try:
        try:
            _reserve(handle, n_bytes)
        finally:
            os.close(handle)  # Windows does not remove an open file
    except OSError as error:
        os.unlink(name)
        raise OSError(error.errno, error.strerror, os.path.dirname(name)) from None
    return Path(name)


def new_folder(*, suffix: str) -> Path:
    """Create a temporary folder in the system's.

    Raises:
        OSError: it cannot be created.
    """
    _sweep(Path(tempfile.gettempdir()), suffix)
    return Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=suffix))


def _sweep(folder: Path, suffix: str) -> None:
    """Remove what killed processes left: files and folders that no process holds."""
    for path in folder.glob(f"{_PREFIX}*{suffix}"):
        with contextlib.suppress(OSError):  # gone already, or another user's
            if time.time() - path.lstat().st_mtime > _SETTLED_SECONDS and not path.is_symlink() and (handle := _locked(path)) is not None:
                _remove(path, os.getpid(), handle)


def _locked(path: Path) -> int | None:
    """Return a handle that holds the lock of a file or folder; None if another process holds it, or the system has no locks."""
    handle = None
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except (ImportError, OSError):
        if handle is not None:
            os.close(handle)
        return None


def _reserve(handle: int, n_bytes: int) -> None:
    """Reserve the space of an open file, or only set its size where the system or the file system cannot reserve space."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, max(1, n_bytes))
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    os.truncate(handle, n_bytes)


def remove_with(owner: object, path: Path) -> None:
    """Remove a temporary file or folder when its owner is deleted or the process exits; copies of the owner in worker processes keep it."""
    weakref.finalize(owner, _remove, path, os.getpid(), _locked(path))


def _remove(path: Path, process: int, handle: int | None) -> None:
    if os.getpid() != process:
        return
    if handle is not None:
        os.close(handle)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # gone already, or still mapped, which Windows does not allow
            path.unlink()
