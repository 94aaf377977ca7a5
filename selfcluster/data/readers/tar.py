"""Images in tar files, read where they lie: webdataset's layout, which keeps many small files off a network's file system.

The headers of each tar are read once, and tell where every image's bytes are; from then on an image is one read at a place, in any
order, by any thread or process. Members that share their name up to its first dot are one sample: `000123.jpg` and its class `000123.cls`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfcluster.data.readers.files import OpenFile, OpenFiles
from selfcluster.data.readers.images import ENDINGS, EncodedImages
from selfcluster.data.readers.labels import Labels, labels_in, parent_folders
from selfcluster.errors import DataError

_ENDINGS = frozenset(ending.encode() for ending in ENDINGS)


class TarImages(EncodedImages):
    """The image files in tar shards, which stay as they are.

    An image's path is `shard.tar/member`. Classes are the members `.cls` (a name or a number), or else the members' folders where every
    image lies exactly one level deep in at least two of them.

    Args:
        root: the folder that the shards' names are relative to.
        shards: their names.
        max_megapixels: an image that declares more is refused before it is decoded.
    Raises:
        DataError: a shard that cannot be read, is compressed, damaged or cut off, or has two members of one name; or no images at all.
    """

    def __init__(self, root: Path, shards: Sequence[str], *, max_megapixels: float = 100.0) -> None:
        self.root, self.shards = root, tuple(sorted(shards, key=os.fsencode))
        self.open_files = OpenFiles()
        indexed = [_index(root, shard) for shard in self.shards]
        self.unclosed = tuple(shard for shard, one in zip(self.shards, indexed, strict=True) if not one.is_closed)
        """Shards without the zeros that end a tar, so that nothing tells whether members are missing."""
        self.n_left_alone = sum(one.n_left_alone for one in indexed)
        files = _all(one.paths for one in indexed)
        if len(files) == 0:
            raise DataError(
                f"no images found in {_shown([str(root / shard) for shard in self.shards])}; looked for members named {' '.join(sorted(ENDINGS))}"
            )
        order = pc.sort_indices(files)
        super().__init__(files.take(order), max_megapixels=max_megapixels)
        self._check_names()
        place = order.to_numpy()
        self.shard: NDArray[np.int32] = np.repeat(np.arange(len(indexed), dtype=np.int32), [len(one.begin) for one in indexed])[place]
        self.begin, self.n_bytes = (
            np.concatenate([np.array(numbers, dtype=np.int64) for numbers in each])[place]
            for each in ([one.begin for one in indexed], [one.n_bytes for one in indexed])
        )
        self.labels = _labels(self.files, indexed) or parent_folders(_all(one.members for one in indexed).take(order))

    def encoded(self, index: int) -> bytes:
        shard, begin, n_bytes = self.shards[self.shard[index]], int(self.begin[index]), int(self.n_bytes[index])
        try:
            content = self.open_files[os.path.join(self.root, shard)].read(begin, n_bytes)
        except OSError as error:
            raise DataError(f"its shard cannot be read: {error.strerror}") from None
        if len(content) < n_bytes:
            raise DataError("lies beyond the end of its shard, which was cut off meanwhile")
        return content

    def files_on_disk(self) -> Iterator[Path]:
        return (self.root / name for name in self.shards)

    def contents(self) -> str:
        n = len(self.shards)
        said = f"{len(self):,} images in {n:,} tar {'file' if n == 1 else 'files'}"
        if self.n_left_alone:
            said += f"; {self.n_left_alone:,} files of other kinds left alone"
        if self.unclosed:
            said += f"; {_shown(self.unclosed)} without the zeros that end a tar, perhaps cut off"
        return said

    def _check_names(self) -> None:
        twice = pc.equal(self.files[1:], self.files[:-1])
        if pc.any(twice).as_py():
            path = self.path(pc.index(twice, True).as_py())
            raise DataError(f"there are two members {path!r}; give one of them another name")


def _shown(shards: Sequence[str]) -> str:
    return f"{shards[0]!r}{f' and {len(shards) - 1:,} more' if len(shards) > 1 else ''}"


class _Index:
    """What one shard holds, without an object of Python for each image."""

    def __init__(self) -> None:
        self.members: list[pa.Array] = []
        self.paths: list[pa.Array] = []
        """The shard's name, and the member's."""
        self.keys: list[pa.Array] = []
        self.classes: list[pa.Array] = []
        """The members `.cls`: their paths without that, and what they hold."""
        self.begin, self.n_bytes = array("q"), array("q")
        self.n_left_alone = 0
        self.is_closed = True


def _index(root: Path, shard: str) -> _Index:
    index, prefix = _Index(), os.fsencode(shard) + b"/"
    try:
        file = OpenFile(root / shard)
    except OSError as error:
        raise DataError(f"cannot read {str(root / shard)!r}: {error.strerror}") from None
    images: list[bytes] = []
    keys: list[bytes] = []
    classes: list[bytes] = []

    def put_down() -> None:
        index.members.append(pa.array(images, type=pa.large_binary()))
        index.paths.append(pa.array([prefix + name for name in images], type=pa.large_binary()))
        index.keys.append(pa.array(keys, type=pa.large_binary()))
        index.classes.append(pa.array(classes, type=pa.large_binary()))
        for names in (images, keys, classes):
            names.clear()

    for name, begin, n_bytes, start in members_of(file, str(root / shard)):
        name = name.removeprefix(b"./").lstrip(b"/")
        if name.startswith(b".") or b"/." in name:
            continue  # hidden, as in a folder
        stem, dot, ending = name.rpartition(b".")
        ending = dot + ending.lower()
        if ending in _ENDINGS:
            images.append(name)
            index.begin.append(begin)
            index.n_bytes.append(n_bytes)
        elif ending == b".cls" and n_bytes <= BLOCK:
            keys.append(prefix + stem)
            classes.append(start.strip())
        else:
            index.n_left_alone += 1
        if len(images) == _N_TOGETHER:
            put_down()
    put_down()
    index.is_closed = is_closed(file)
    return index


_N_TOGETHER = 65536


def _all(parts: Iterable[list[pa.Array]]) -> pa.Array:
    return pa.concat_arrays([names for part in parts for names in part])


def _labels(files: pa.Array, indexed: Sequence[_Index]) -> Labels | None:
    """The classes of the images' samples; -1 where a sample has none, None where no image has one."""
    keys = _all(one.keys for one in indexed)
    if len(keys) == 0:
        return None
    # A name that holds a dot itself is tried as a whole first.
    whole, short = (pc.replace_substring_regex(files, ending, b"") for ending in (rb"(?s)\.[^./]*$", rb"(?s)\.[^/]*$"))
    place = pc.coalesce(pc.index_in(whole, value_set=keys), pc.index_in(short, value_set=keys))
    own = pc.take(_all(one.classes for one in indexed), place)
    return labels_in(own) if own.null_count < len(own) else None


BLOCK = 512


_ZEROS = bytes(BLOCK)


_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


def members_of(file: OpenFile, shown: str) -> Iterator[tuple[bytes, int, int, bytes]]:
    """Each ordinary file in a tar, in the tar's order: its name, where its bytes begin, how many they are, and the first up to 512 of them.

    Args:
        file: the tar.
        shown: its name in messages.
    Raises:
        DataError: it is compressed, damaged, or ends in the middle of a member.
    """
    end, place = file.n_bytes(), 0
    name, size = b"", -1  # what a GNU or pax header says of the member behind it
    while place < end:
        # With the first bytes of a member, so that a small one needs no second read.
        block = file.read(place, 2 * BLOCK)
        header, start = block[:BLOCK], block[BLOCK:]
        if header == _ZEROS[: len(header)]:  # the end, or the seam of two tars that were joined
            place += BLOCK
            continue
        _check(header, place, shown)
        kind = header[156:157]
        here = size if size >= 0 else _number(header[124:136], place, shown)
        # Links, devices and folders have no bytes, whatever their size says.
        n_bytes = 0 if kind in (b"1", b"2", b"3", b"4", b"5", b"6") else here
        begin = place + BLOCK
        own = name or _name(header)
        if begin + n_bytes > end:
            raise DataError(f"{shown!r} is cut off in the middle of {own.decode(errors='replace')!r}; get or pack it again")
        place = begin + -(-n_bytes // BLOCK) * BLOCK
        if kind == b"L":
            name = file.read(begin, n_bytes).rstrip(b"\0")
        elif kind == b"x":
            name, size = _pax(file.read(begin, n_bytes), begin, shown)
        elif kind == b"S":
            raise DataError(f"{shown!r} holds {own.decode(errors='replace')!r} as a sparse file; pack it again without --sparse")
        elif kind not in (b"g", b"K"):
            if kind in (b"0", b"\0", b"7") and not own.endswith(b"/"):
                yield own, begin, n_bytes, start[:n_bytes]
            name, size = b"", -1


def is_closed(file: OpenFile) -> bool:
    """Whether the tar ends as one should, in zeros; one that does not may have been cut off between two members."""
    return file.read(max(0, file.n_bytes() - BLOCK), BLOCK) == _ZEROS


def _check(header: bytes, place: int, shown: str) -> None:
    if place == 0:
        for begins, how in _COMPRESSED.items():
            if header.startswith(begins):
                raise DataError(f"{shown!r} is compressed ({how}), so no single image can be read from it; {UNPACK}")
    if len(header) < BLOCK:
        raise DataError(f"{shown!r} is {'no tar' if place == 0 else f'cut off at byte {place:,}'}; get or pack it again")
    # The sum of all bytes, with blanks where the sum itself stands.
    if _number(header[148:156], place, shown) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise DataError(f"{shown!r} is {'no tar' if place == 0 else f'damaged at byte {place:,}'}; get or pack it again")


UNPACK = "unpack it into a folder, or store it as an uncompressed .tar"


def _number(digits: bytes, place: int, shown: str) -> int:
    """Octal text, or GNU's binary numbers for what is too large for that."""
    if digits[0] & 0x80:
        return int.from_bytes(bytes([digits[0] & 0x7F]) + digits[1:], "big")
    try:
        return int(digits.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise DataError(f"{shown!r} is {'no tar' if place == 0 else f'damaged at byte {place:,}'}; get or pack it again") from None


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # GNU's own dialect ("ustar  ") keeps other things where the prefix stands.
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(text: bytes, place: int, shown: str) -> tuple[bytes, int]:
    """Name and size among records of the form `length key=value`, each closed by a newline; the length is the whole record's."""
    name, size = b"", -1
    try:
        while text and text[0]:
            length, _, rest = text.partition(b" ")
            key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
            if key == b"path":
                name = value
            elif key == b"size":
                size = int(value)
            text = text[max(1, int(length)) :]
    except ValueError:
        raise DataError(f"{shown!r} is damaged at byte {place:,}; get or pack it again") from None
    return name, size
