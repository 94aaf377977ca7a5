"""Images in uncompressed tar files, read in place: webdataset's layout, which keeps many small files off a network file system.

The headers of each tar are read once; after that, an image is one read at an offset, in any order, by any thread or process. Members that
share their name up to its first dot are one sample: `000123.jpg` and its class `000123.cls`.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfcluster.data.readers.files import LruCache, OpenFile
from selfcluster.data.readers.images import ENDINGS, EncodedImages
from selfcluster.data.readers.labels import Labels, labels_in, parent_folders
from selfcluster.data.readers.tar_headers import BLOCK, is_closed, members_of
from selfcluster.errors import DataError
from selfcluster.formatting import n_images

_ENDINGS = frozenset(ending.encode() for ending in ENDINGS)
_BYTES_PER_PIXEL = 16
"""More than any format has."""
_FEWEST_BYTES = 2**24
"""Bytes that every image may have."""
_N_OPEN = 128
"""Tars kept open; many systems allow a process 1,024 open files, some 256."""


class TarImages(EncodedImages):
    """The image files in tar shards.

    An image's path is `shard.tar/member`. Classes come from the members `.cls` (a name or a number), or else from the members' folders, if
    every image is exactly one level deep in at least two of them.

    Args:
        root: folder that the names of the shards are relative to.
        shards: names of the shards.
        max_megapixels: an image that declares more is refused before it is decoded.
    Raises:
        DataError: a shard cannot be read, is compressed, damaged or truncated, or contains two members of one name; or there are no images.
    """

    def __init__(self, root: Path, shards: Sequence[str], *, max_megapixels: float = 100.0) -> None:
        self.root, self.shards = root, tuple(sorted(shards, key=os.fsencode))
        self.opened = LruCache(OpenFile, _N_OPEN)
        indexes = [_index(root, shard) for shard in self.shards]
        self.unclosed = tuple(shard for shard, index in zip(self.shards, indexes, strict=True) if not index.is_closed)
        """Shards without the zeros that end a tar, which may therefore be truncated."""
        self.n_skipped = sum(index.n_skipped for index in indexes)
        files = pa.concat_arrays([index.paths for index in indexes])
        if len(files) == 0:
            shown = _shown([str(root / shard) for shard in self.shards])
            raise DataError(f"no images found in {shown}; looked for members named {' '.join(sorted(ENDINGS))}")
        order = pc.sort_indices(files)
        super().__init__(files.take(order), max_megapixels=max_megapixels)
        twice = pc.equal(self.files[1:], self.files[:-1])
        if pc.any(twice).as_py():
            raise DataError(f"two members are named {self.path(pc.index(twice, True).as_py())!r}; rename one of them")
        place = order.to_numpy()
        self.shard: NDArray[np.int32] = np.repeat(np.arange(len(indexes), dtype=np.int32), [len(one.offset) for one in indexes])[place]
        self.offset, self.n_bytes = (
            np.concatenate(numbers)[place] for numbers in ([one.offset for one in indexes], [one.n_bytes for one in indexes])
        )
        members = pa.concat_arrays([index.members for index in indexes])
        self.labels = _labels(self.files, indexes) or parent_folders(members.take(order))

    def encoded(self, index: int) -> bytes:
        shard, n_bytes = self.shards[self.shard[index]], int(self.n_bytes[index])
        if n_bytes > max(_FEWEST_BYTES, _BYTES_PER_PIXEL * self.max_megapixels * 1e6):
            raise DataError(f"has {n_bytes:,} bytes, more than an image of {self.max_megapixels:g} megapixels")
        try:
            content = self.opened(os.path.join(self.root, shard)).read(int(self.offset[index]), n_bytes)
        except OSError as error:
            raise DataError(f"its shard cannot be read: {error.strerror}") from None
        if len(content) < n_bytes:
            raise DataError("is beyond the end of its shard, which has been truncated since it was opened")
        return content

    def files_on_disk(self) -> Iterator[Path]:
        return (self.root / name for name in self.shards)

    def contents(self) -> str:
        n = len(self.shards)
        said = f"{n_images(len(self))} in {n:,} tar {'file' if n == 1 else 'files'}"
        if self.n_skipped:
            said += f"; {self.n_skipped:,} other files skipped"
        if self.unclosed:
            said += f"; {_shown(self.unclosed)} without the zeros that end a tar, perhaps truncated"
        return said


def _shown(shards: Sequence[str]) -> str:
    return f"{shards[0]!r}{f' and {len(shards) - 1:,} more' if len(shards) > 1 else ''}"


@dataclass(frozen=True)
class _Index:
    """The images and classes in one shard."""

    members: pa.Array
    """Name of each image in the shard."""
    paths: pa.Array
    """Name of the shard and of the image."""
    offset: NDArray[np.int64]
    n_bytes: NDArray[np.int64]
    keys: pa.Array
    """Path of each `.cls` member without that suffix."""
    classes: pa.Array
    """Content of each `.cls` member."""
    n_skipped: int
    is_closed: bool


def _index(root: Path, shard: str) -> _Index:
    try:
        file = OpenFile(root / shard)
    except OSError as error:
        raise DataError(f"cannot read {str(root / shard)!r}: {error.strerror}") from None
    images: list[bytes] = []
    classes: dict[bytes, bytes] = {}
    offsets, sizes, n_skipped = array("q"), array("q"), 0
    for name, offset, n_bytes, start in members_of(file, str(root / shard)):
        name = name.removeprefix(b"./").lstrip(b"/")
        if name.startswith(b".") or b"/." in name:
            continue  # hidden, as in a folder
        stem, dot, ending = name.rpartition(b".")
        ending = dot + ending.lower()
        if ending in _ENDINGS:
            images.append(name)
            offsets.append(offset)
            sizes.append(n_bytes)
        elif ending == b".cls" and n_bytes <= BLOCK:
            classes.setdefault(stem, start.strip())
        else:
            n_skipped += 1
    prefix, binary = os.fsencode(shard) + b"/", pa.large_binary()
    members = pa.array(images, binary)
    return _Index(
        members=members,
        paths=pc.binary_join_element_wise(pa.scalar(prefix, binary), members, pa.scalar(b"", binary)),
        offset=np.array(offsets, dtype=np.int64),
        n_bytes=np.array(sizes, dtype=np.int64),
        keys=pa.array([prefix + stem for stem in classes], binary),
        classes=pa.array(list(classes.values()), binary),
        n_skipped=n_skipped,
        is_closed=is_closed(file),
    )


def _labels(files: pa.Array, indexes: Sequence[_Index]) -> Labels | None:
    """Return the classes of the images' samples: -1 for a sample without one, None if no image has one."""
    keys = pa.concat_arrays([index.keys for index in indexes])
    if len(keys) == 0:
        return None
    # A sample's own name may contain a dot, so the whole name is tried first.
    whole, short = (pc.replace_substring_regex(files, ending, b"") for ending in (rb"(?s)\.[^./]*$", rb"(?s)\.[^/]*$"))
    place = pc.coalesce(pc.index_in(whole, value_set=keys), pc.index_in(short, value_set=keys))
    own = pc.take(pa.concat_arrays([index.classes for index in indexes]), place)
    return labels_in(own) if own.null_count < len(own) else None
