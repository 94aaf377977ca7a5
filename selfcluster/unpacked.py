"""Bytes that many processes fetch once and then read in any order, in a temporary file.

What is stored compressed, a few hundred images together, cannot be read one image at a time. Whoever first needs one of them adds them
all here, as they are once uncompressed; from then on each is one read at a place.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selfcluster.open_files import OpenFile


class Unpacked:
    """The contents of n rows, as far as they have been added.

    Args:
        n: rows.
    Raises:
        OSError: where the system keeps temporary files, none can be made.
    """

    def __init__(self, n: int) -> None:
        handle, name = tempfile.mkstemp(prefix="selfcluster-", suffix=".unpacked")
        self.path, self.n = Path(name), n
        # The file is gone with whoever made it, though not with a worker that holds a copy of this.
        self._gone = weakref.finalize(self, _remove, self.path, os.getpid())
        self.table_lock = multiprocessing.Lock()
        try:
            os.truncate(handle, self._begins)
        finally:
            os.close(handle)
        self._open()

    @property
    def _begins(self) -> int:
        return 8 * (1 + 2 * self.n)

    def _open(self) -> None:
        numbers = np.memmap(self.path, np.int64, "r+", shape=(1 + 2 * self.n,))
        self.used = numbers[:1]
        """Bytes behind the table that are taken."""
        self.table: NDArray[np.int64] = numbers[1:].reshape(-1, 2)
        """For each row: 1 + where its bytes begin, or 0 where it is not here; and how many they are, or -1 where it is null."""
        self.file = OpenFile(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("used", "table", "file", "_gone")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open()

    def has(self, row: int) -> bool:
        """Whether the row has been added."""
        with self.table_lock:
            return bool(self.table[row, 0])

    def get(self, row: int) -> bytes | None:
        """The bytes of a row that has been added; None where it is null."""
        with self.table_lock:
            begin, n_bytes = self.table[row].tolist()
        return self.file.read(self._begins + begin - 1, n_bytes) if n_bytes >= 0 else None

    def add(self, first: int, parts: Iterable[pa.Array]) -> None:
        """The rows from the first on are here. The caller sees to it that nobody else adds any meanwhile.

        Args:
            first: row of the first value.
            parts: the values of consecutive rows, as large_binary, part by part.
        Raises:
            OSError: there is no room; then no row has been added.
        """
        begin, begins, sizes = int(self.used[0]), [], []
        with self.path.open("r+b") as file:
            file.seek(self._begins + begin)
            for part in parts:
                offsets, values = _buffers(part)
                file.write(values[offsets[0] : offsets[-1]])
                begins.append(begin + offsets[:-1] - offsets[0])
                sizes.append(np.where(part.is_null().to_numpy(zero_copy_only=False), -1, np.diff(offsets)))
                begin += int(offsets[-1] - offsets[0])
        entries = np.stack([np.concatenate(begins) + 1, np.concatenate(sizes)], axis=1)
        with self.table_lock:
            self.used[0] = begin
            self.table[first : first + len(entries)] = entries


def _buffers(values: pa.Array) -> tuple[NDArray[np.int64], memoryview]:
    """Where each of the values begins, and one more for the end; and the bytes of them all."""
    _, offsets, content = values.buffers()
    begins = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    return begins, memoryview(content if content is not None else b"")


def _remove(file: Path, owner: int) -> None:
    if os.getpid() == owner:
        file.unlink(missing_ok=True)
