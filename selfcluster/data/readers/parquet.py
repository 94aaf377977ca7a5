"""Images in a column of parquet files, such as those of the Hugging Face hub: bytes, or a struct of bytes and path.

Parquet compresses its rows in groups, so that one image costs a whole group. Training asks for images in a shuffled order, and would
read a group of a thousand a thousand times in an epoch: so each group is read once, when one of its images is first asked for, into a
temporary file that gives single images.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selfcluster.data.readers.files import OpenFile
from selfcluster.data.readers.images import EncodedImages
from selfcluster.data.readers.labels import Labels, labels_in, labels_of
from selfcluster.errors import DataError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target")
_N_TOGETHER = 64
"""Rows that are held in memory at a time while a group is unpacked."""
_N_KEPT = 2
"""Groups that are kept in memory where there is no room to unpack; two, for threads on either side of a seam."""
_N_OPEN = 8
"""Files that are kept open."""
_SHARE_OF_DISK = 0.9
"""Of what is free, that the unpacked images may take."""


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


class ParquetImages(EncodedImages):
    """The images in a column of parquet files.

    An image's path is `file.parquet/row`. Classes are the column label, labels, fine_label, class, cls or target (numbers or text, with
    the names that Hugging Face's metadata have for the numbers), or else the one column that those metadata call a class.

    Args:
        root: the folder that the files' names are relative to.
        names: of the files.
        column: which holds the images; "" for image or img, or else the only one that can.
        max_megapixels: an image that declares more is refused before it is decoded.
        n_copies: how many processes on this machine will unpack the same, each for itself.
    Raises:
        DataError: a file that cannot be read, or no column of images, or several.
    """

    def __init__(self, root: Path, names: Sequence[str], *, column: str = "", max_megapixels: float = 100.0, n_copies: int = 1) -> None:
        self.root, self.names = root, tuple(sorted(names, key=os.fsencode))
        footers = [_footer(root / name) for name in self.names]
        schema = footers[0].schema.to_arrow_schema()
        self.column = _image_column(schema, str(root / self.names[0]), column)
        self.leaf = self.column if _is_bytes(schema.field(self.column).type) else f"{self.column}.bytes"
        groups = [group for place, footer in enumerate(footers) for group in self._groups_of(place, footer)]
        self.groups = np.array(groups, dtype=np.int64).reshape(-1, 4)
        """For each group of rows: its file, its place in it, its rows, and its images' bytes once uncompressed."""
        self.first = np.concatenate([[0], np.cumsum(self.groups[:, 2])])
        """Index of each group's first image, and the number of images."""
        if self.first[-1] == 0:
            raise DataError(f"no images found in {str(root / self.names[0])!r}: column {self.column!r} has no rows")
        super().__init__(_row_paths(self.names, [footer.num_rows for footer in footers]), max_megapixels=max_megapixels)
        self.labels = self._labels(schema)
        self.n_bytes = int(self.groups[:, 3].sum())
        free = shutil.disk_usage(tempfile.gettempdir()).free
        self.unpacked = Unpacked(len(self)) if n_copies * self.n_bytes <= _SHARE_OF_DISK * free else None
        self.adding = multiprocessing.Lock()
        self._start()

    def _start(self) -> None:
        """What each process has of its own."""
        self.lock = threading.Lock()
        self.opened: dict[int, pq.ParquetFile] = {}
        self.kept: dict[int, pa.Array] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("lock", "opened", "kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()

    def digest(self) -> str:
        """Of names, numbers of rows, and bytes of each group: rows that were exchanged show, though not each of them."""
        return hashlib.sha256(super().digest().encode() + np.ascontiguousarray(self.groups[:, 2:]).tobytes()).hexdigest()

    def encoded(self, index: int) -> bytes:
        group = int(np.searchsorted(self.first, index, side="right")) - 1
        content = self._kept(group)[index - int(self.first[group])].as_py() if self.unpacked is None else self._from_unpacked(group, index)
        if content is None:
            raise DataError("has no bytes")
        return content

    def files_on_disk(self) -> Iterator[Path]:
        return (self.root / name for name in self.names)

    def contents(self) -> str:
        n, size = len(self.names), _size(self.n_bytes)
        said = f"{len(self):,} images in column {self.column!r} of {n:,} parquet {'file' if n == 1 else 'files'}; "
        if self.unpacked is not None:
            return f"{said}they are unpacked into {str(self.unpacked.path)!r} as they are first read, {size}"
        largest = _size(int(self.groups[:, 3].max()))
        return (
            f"{said}no room to unpack {size} in {tempfile.gettempdir()!r}, so that each image costs reading its group of rows, up to {largest}; "
            "set TMPDIR to a folder with room"
        )

    def _from_unpacked(self, group: int, index: int) -> bytes | None:
        assert self.unpacked is not None
        if not self.unpacked.has(index):
            with self.adding:
                if not self.unpacked.has(index):
                    self.unpacked.add(int(self.first[group]), self._read(group))
        return self.unpacked.get(index)

    def _kept(self, group: int) -> pa.Array:
        with self.lock:
            values = self.kept.pop(group, None)
            self.kept[group] = pa.concat_arrays(list(self._read(group))) if values is None else values
            if len(self.kept) > _N_KEPT:
                del self.kept[next(iter(self.kept))]
            return self.kept[group]

    def _read(self, group: int) -> Iterator[pa.Array]:
        """The bytes of a group's images, part by part."""
        place, row_group = (int(number) for number in self.groups[group, :2])
        try:
            rows = self._open(place).iter_batches(_N_TOGETHER, row_groups=[row_group], columns=[self.leaf], use_threads=False)
            for batch in rows:
                values = batch.column(0)
                yield (values if _is_bytes(values.type) else pc.struct_field(values, "bytes")).cast(pa.large_binary())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"its group of rows cannot be read: {' '.join(str(error).split())}") from None

    def _open(self, place: int) -> pq.ParquetFile:
        if place not in self.opened:
            if len(self.opened) == _N_OPEN:
                del self.opened[next(iter(self.opened))]
            # Buffered, so that a file of one group is not held in memory as a whole; and without Arrow's threads, since workers are forked.
            self.opened[place] = pq.ParquetFile(self.root / self.names[place], buffer_size=1 << 20, pre_buffer=False)
        return self.opened[place]

    def _groups_of(self, place: int, footer: pq.FileMetaData) -> Iterator[tuple[int, int, int, int]]:
        schema = footer.schema
        column = next((i for i in range(len(schema)) if schema.column(i).path == self.leaf), None)
        if column is None:
            raise DataError(f"{str(self.root / self.names[place])!r} has no column {self.column!r} like that of {self.names[0]!r}")
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            yield place, number, group.num_rows, group.column(column).total_uncompressed_size

    def _labels(self, schema: pa.Schema) -> Labels | None:
        features = _features(schema)
        can = [name for name in schema.names if _is_label(schema.field(name).type)]
        classes = [name for name in can if features.get(name, {}).get("_type") == "ClassLabel"]
        by_name = [name for name in _LABEL_COLUMNS if name in can]
        if not by_name and len(classes) != 1:
            return None
        name = (by_name or classes)[0]
        parts = [_as_text(self.root / file, name) for file in self.names]
        if any(part is None for part in parts):
            return None
        values = pa.concat_arrays(parts)
        names = tuple(features.get(name, {}).get("names") or ())
        if not names or not pa.types.is_integer(schema.field(name).type):
            return labels_in(values)
        codes = values.cast(pa.int64()).fill_null(-1).to_numpy()
        # A number without a name would be told as damage much later: then all are told by their numbers.
        return labels_of(codes, len(self), names) if codes.max() < len(names) else labels_in(values)


def _footer(file: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError, UnicodeError) as error:  # Arrow takes names that are UTF-8 only
        raise DataError(f"cannot read {str(file)!r}: {' '.join(str(error).split())}") from None


def _as_text(file: Path, name: str) -> pa.Array | None:
    """A column of classes; None where the file has none of that name."""
    try:
        table = pq.ParquetFile(file).read(columns=[name], use_threads=False)
        return table.column(0).cast(pa.large_string()).combine_chunks() if table.num_columns else None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read column {name!r} of {str(file)!r}: {' '.join(str(error).split())}") from None


def _image_column(schema: pa.Schema, file: str, given: str) -> str:
    """The column that is asked for; or image or img; or the only one that can hold images."""
    features = _features(schema)
    can = [field.name for field in schema if _is_bytes(field.type) or _is_struct_of_bytes(field.type)]
    can = [name for name in can if features.get(name, {}).get("_type") == "Image"] or can
    if given:
        if given in can:
            return given
        raise DataError(f"{file!r} has no column {given!r} of images; {_those(can, schema)}")
    if not can:
        raise DataError(f"{file!r} holds no images; {_those(can, schema)}")
    named = [name for name in _IMAGE_COLUMNS if name in can]
    if not named and len(can) > 1:
        raise DataError(f"{file!r} has several columns that can hold images, {', '.join(can)}; choose one, as in {f'{file}#{can[0]}'!r}")
    return (named or can)[0]


def _those(can: Sequence[str], schema: pa.Schema) -> str:
    if can:
        return f"those that can hold images are {', '.join(can)}"
    return f"none of its columns ({', '.join(schema.names)}) is of bytes, or of structs of bytes and path"


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face's metadata say of each column; nothing where there are none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)


def _is_label(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)


def _row_paths(names: Sequence[str], n_rows: Sequence[int]) -> pa.Array:
    kind = pa.large_binary()
    rows = [pa.array(np.arange(n)).cast(pa.large_string()).cast(kind) for n in n_rows]
    slash = pa.scalar(b"/", kind)
    parts = [pc.binary_join_element_wise(pa.scalar(os.fsencode(name), kind), row, slash) for name, row in zip(names, rows, strict=True)]
    return pa.concat_arrays(parts)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"
