"""Files that stay open and are read at any place, by any number of threads and processes.

A read says where it begins, so that readers share no position and need no lock; a process that is forked reads on through the
handles it inherits, and one that is started anew opens its own.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

_N_OPEN = 128
"""Many systems allow a process 1,024 open files, and some 256."""


class OpenFile:
    """A file, open as long as anybody holds this."""

    def __init__(self, path: str | Path) -> None:
        self.handle = -1
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.lock = threading.Lock()

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    def n_bytes(self) -> int:
        """How long it is now."""
        return os.fstat(self.handle).st_size

    def read(self, begin: int, n_bytes: int) -> bytes:
        """The bytes from there on; fewer where the file ends before."""
        if hasattr(os, "pread"):
            return os.pread(self.handle, n_bytes, begin)
        with self.lock:  # Windows knows no read at a place
            os.lseek(self.handle, begin, os.SEEK_SET)
            return os.read(self.handle, n_bytes)


class OpenFiles:
    """Opens files as they are asked for, and keeps the latest ones open."""

    def __init__(self) -> None:
        self.files: dict[str, OpenFile] = {}
        self.lock = threading.Lock()

    def __reduce__(self) -> tuple[type[OpenFiles], tuple[()]]:
        return OpenFiles, ()

    def __getitem__(self, path: str) -> OpenFile:
        with self.lock:
            if (file := self.files.pop(path, None)) is None:
                file = OpenFile(path)
            self.files[path] = file
            if len(self.files) > _N_OPEN:
                # Closed as soon as no thread reads from it any more.
                del self.files[next(iter(self.files))]
        return file
