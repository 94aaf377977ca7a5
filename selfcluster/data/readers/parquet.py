"""Images in a column of parquet files, such as those of the Hugging Face hub: bytes, or a struct of bytes and path.

Parquet compresses rows in groups, so reading one image means reading its whole group, and a shuffled epoch would read a group of a thousand
images a thousand times. Each group is therefore unpacked once, into a temporary file that single images are read from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfcluster.data.readers.files import LruCache
from selfcluster.data.readers.images import EncodedImages
from selfcluster.data.readers.parquet_columns import image_column, is_bytes, labels_from
from selfcluster.data.readers.unpacked import RecentGroups, UnpackedGroups
from selfcluster.errors import DataError
from selfcluster.formatting import n_images

_BATCH_ROWS = 64
"""Rows of a group that are read at a time."""
_N_OPEN = 8
"""Files kept open."""
_SHARE_OF_DISK = 0.9
"""Share of the free disk space that the unpacked images may take."""


class ParquetImages(EncodedImages):
    """The images in a column of parquet files.

    An image's path is `file.parquet/row`. Classes come from the column label, labels, fine_label, class, cls or target (numbers or text,
    with Hugging Face's names for the numbers), or else from the only column that Hugging Face's metadata declare a class.

    Args:
        root: folder that the names of the files are relative to.
        names: names of the files.
        column: column of the images; "" for image or img, or else the only one that can contain images.
        max_megapixels: an image that declares more is refused before it is decoded.
        n_copies: processes on this machine that will each unpack the same images.
    Raises:
        DataError: a file cannot be read, or has no column of images, or several.
    """

    def __init__(self, root: Path, names: Sequence[str], *, column: str = "", max_megapixels: float = 100.0, n_copies: int = 1) -> None:
        self.root, self.names = root, tuple(sorted(names, key=os.fsencode))
        footers = [_footer(root / name) for name in self.names]
        schema = footers[0].schema.to_arrow_schema()
        self.column = image_column(schema, str(root / self.names[0]), column)
        self.leaf = self.column if is_bytes(schema.field(self.column).type) else f"{self.column}.bytes"
        groups = [group for place, footer in enumerate(footers) for group in self._groups_of(place, footer)]
        self.groups = np.array(groups, dtype=np.int64).reshape(-1, 4)
        """For each group of rows: its file, its number in the file, its rows, and the uncompressed bytes of its images."""
        self.first = np.concatenate([[0], np.cumsum(self.groups[:, 2])])
        """Index of each group's first image, and the number of images."""
        if self.first[-1] == 0:
            raise DataError(f"no images found in {str(root / self.names[0])!r}: column {self.column!r} has no rows")
        super().__init__(_row_paths(self.names, [footer.num_rows for footer in footers]), max_megapixels=max_megapixels)
        self.labels = labels_from([root / name for name in self.names], schema)
        self.n_bytes = int(self.groups[:, 3].sum())
        free = shutil.disk_usage(tempfile.gettempdir()).free
        self.store = UnpackedGroups() if n_copies * self.n_bytes <= _SHARE_OF_DISK * free else RecentGroups()
        self.opened = LruCache(_open, _N_OPEN)

    def digest(self) -> str:
        """Return a digest of file names, row counts and bytes of each group, which changes with most changes of the rows."""
        return hashlib.sha256(super().digest().encode() + np.ascontiguousarray(self.groups[:, 2:]).tobytes()).hexdigest()

    def encoded(self, index: int) -> bytes:
        group = int(np.searchsorted(self.first, index, side="right")) - 1
        rows, row = self.store.rows(group, self._read), index - int(self.first[group])
        if row >= len(rows):
            raise DataError(f"its group of rows has {len(rows):,}, fewer than the file says")
        content = rows[row].as_py()
        if content is None:
            raise DataError("has no bytes")
        return content

    def files_on_disk(self) -> Iterator[Path]:
        return (self.root / name for name in self.names)

    def contents(self) -> str:
        n, size = len(self.names), _size(self.n_bytes)
        said = f"{n_images(len(self))} in column {self.column!r} of {n:,} parquet {'file' if n == 1 else 'files'}; "
        if isinstance(self.store, UnpackedGroups):
            return f"{said}unpacked into {str(self.store.folder)!r} as they are first read, {size}"
        largest = _size(int(self.groups[:, 3].max()))
        return (
            f"{said}no room to unpack {size} in {tempfile.gettempdir()!r}, so reading an image means reading its group of rows, up to {largest}; "
            "set TMPDIR to a folder with room"
        )

    def _read(self, group: int) -> Iterator[pa.Array]:
        """Yield the bytes of a group's images, batch by batch."""
        place, row_group = self.groups[group, :2].tolist()
        try:
            file = self.opened(self.root / self.names[place])
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[row_group], columns=[self.leaf], use_threads=False):
                values = batch.column(0)
                yield (values if is_bytes(values.type) else pc.struct_field(values, "bytes")).cast(pa.large_binary())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"its group of rows cannot be read: {' '.join(str(error).split())}") from None

    def _groups_of(self, place: int, footer: pq.FileMetaData) -> Iterator[tuple[int, int, int, int]]:
        schema = footer.schema
        column = next((i for i in range(len(schema)) if schema.column(i).path == self.leaf), None)
        if column is None:
            raise DataError(f"{str(self.root / self.names[place])!r} has no column {self.column!r} like that of {self.names[0]!r}")
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            yield place, number, group.num_rows, group.column(column).total_uncompressed_size


def _footer(file: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError, UnicodeError) as error:  # Arrow accepts only names in UTF-8
        raise DataError(f"cannot read {str(file)!r}: {' '.join(str(error).split())}") from None


def _open(file: Path) -> pq.ParquetFile:
    # Buffered, so that a file of one group is not read into memory whole; without Arrow's threads, since workers are forked.
    return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)


def _row_paths(names: Sequence[str], n_rows: Sequence[int]) -> pa.Array:
    kind = pa.large_binary()
    rows = [pa.array(np.arange(n)).cast(pa.large_string()).cast(kind) for n in n_rows]
    slash = pa.scalar(b"/", kind)
    parts = [pc.binary_join_element_wise(pa.scalar(os.fsencode(name), kind), row, slash) for name, row in zip(names, rows, strict=True)]
    return pa.concat_arrays(parts)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
