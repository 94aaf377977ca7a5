"""Files that stay open and are read at any offset, by any number of threads and processes.

Each read names its offset, so readers share no position and need no lock. A forked process uses the handles it inherits; a spawned one
opens its own.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class OpenFile:
    """A file that stays open as long as this object is referenced."""

    def __init__(self, path: str | Path) -> None:
        self.handle = -1
        self.handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.lock = threading.Lock()

    def __del__(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)

    def n_bytes(self) -> int:
        """Return the current size."""
        return os.fstat(self.handle).st_size

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return the bytes from an offset on; fewer at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self.handle, n_bytes, offset)
        with self.lock:  # Windows has no pread
            os.lseek(self.handle, offset, os.SEEK_SET)
            return os.read(self.handle, n_bytes)


class LruCache(Generic[Value]):
    """`functools.lru_cache` that computes each value once for all threads, and starts empty in a spawned process.

    Args:
        function: what is cached.
        maxsize: values that are kept.
    """

    def __init__(self, function: Callable[..., Value], maxsize: int) -> None:
        self.function, self.maxsize = function, maxsize
        self.cached, self.lock = functools.lru_cache(maxsize)(function), threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return LruCache, (self.function, self.maxsize)

    def __call__(self, *key: Hashable) -> Value:
        with self.lock:
            return self.cached(*key)
