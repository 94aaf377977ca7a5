"""Groups of rows that can only be read whole: unpacked into Arrow files that are mapped into memory, or the last few kept in memory."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from selfcluster.data.readers.files import LruCache
from selfcluster.temporary import new_folder, remove_with

_SCHEMA = pa.schema([("bytes", pa.large_binary())])
_N_MAPPED = 4096
"""Groups that stay mapped; Linux allows a process 65,530 maps."""
_N_RECENT = 2
"""Groups kept in memory without unpacking; two, for threads on either side of a boundary."""

Read = Callable[[int], Iterable[pa.Array]]
"""From the number of a group to its rows as large_binary, batch by batch."""


class UnpackedGroups:
    """Groups of rows, each written to a temporary Arrow file the first time one of its rows is needed, by whichever process needs it.

    Raises:
        OSError: no temporary folder can be created.
    """

    def __init__(self) -> None:
        self.folder = new_folder(suffix=".unpacked")
        remove_with(self, self.folder)
        self.writing, self.mapped = multiprocessing.Lock(), LruCache(_map, _N_MAPPED)

    def rows(self, group: int, read: Read) -> pa.ChunkedArray:
        """Return the rows of a group.

        Raises:
            OSError: the disk is full; nothing of the group is kept.
        """
        file = self.folder / f"{group}.arrow"
        if not file.exists():
            with self.writing:
                if not file.exists():
                    _write(file, read(group))
        return self.mapped(file)


class RecentGroups:
    """Groups of rows, of which each process keeps the last two in memory."""

    def __init__(self) -> None:
        self.recent = LruCache(_whole, _N_RECENT)

    def rows(self, group: int, read: Read) -> pa.Array:
        """Return the rows of a group."""
        return self.recent(group, read)


def _whole(group: int, read: Read) -> pa.Array:
    return pa.concat_arrays(list(read(group)))


def _write(file: Path, batches: Iterable[pa.Array]) -> None:
    unfinished = file.with_suffix(".unfinished")
    try:
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            for values in batches:
                writer.write_batch(pa.record_batch([values], schema=_SCHEMA))
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def _map(file: Path) -> pa.ChunkedArray:
    with pa.memory_map(str(file)) as source:
        # Without Arrow's threads, since workers are forked.
        return pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(use_threads=False)).read_all().column(0)
