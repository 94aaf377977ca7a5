"""Temporary files that are mapped into memory and removed with the object that uses them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import weakref
from pathlib import Path


def reserve_file(n_bytes: int, *, suffix: str, folder: Path | None = None) -> Path:
    """Create a temporary file of this size and reserve its space: a write through a memory map kills the process if the disk is full.

    Args:
        n_bytes: size of the file.
        suffix: end of its name.
        folder: where it is created; None for the system's temporary folder.
    Raises:
        OSError: there is not enough space; no file is left behind.
    """
    handle, name = tempfile.mkstemp(prefix="selfcluster-", suffix=suffix, dir=folder)
    try:
        try:
            _reserve(handle, n_bytes)
        finally:
            os.close(handle)  # Windows does not remove an open file
    except OSError as error:
        os.unlink(name)
        raise OSError(error.errno, error.strerror, os.path.dirname(name)) from None
    return Path(name)


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
    weakref.finalize(owner, _remove, path, os.getpid())


def _remove(path: Path, process: int) -> None:
    if os.getpid() != process:
        return
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # gone already, or still mapped, which Windows does not allow
            path.unlink()
