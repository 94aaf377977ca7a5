"""Where images come from. One contract for all: a length, `decode(index)`, `path(index)`, perhaps labels, and a digest.

An image's index is its position among the relative paths sorted bytewise, or its row in an array. Everything that is kept across
batches is keyed by it, so the digest of the paths is stored with every run.
"""

from __future__ import annotations

import abc
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import UInt8
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from selfcluster.data.readers.decoding import opened, reduce, upright_pixels, upright_size
from selfcluster.data.readers.labels import Labels, labels_of
from selfcluster.errors import DataError

ENDINGS = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".gif",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".tga",
    ]
)
"""File names that are taken for images; every other file is left alone."""


@dataclass(frozen=True)
class Decoded:
    """An image as far as it was decoded: in full, or at a share of its size."""

    pixels: UInt8[Tensor, "c h w"]
    size: tuple[int, int]
    """Height and width of the whole image."""

    @classmethod
    def whole(cls, pixels: UInt8[Tensor, "c h w"]) -> Decoded:
        """One that was decoded in full."""
        return cls(pixels, (pixels.shape[1], pixels.shape[2]))

    def box(self, top: int, left: int, height: int, width: int) -> UInt8[Tensor, "c _ _"]:
        """The pixels of a box that is given in pixels of the whole image; one at least each way."""
        rows, columns = (
            _part(begin, length, whole, there)
            for begin, length, whole, there in zip((top, left), (height, width), self.size, self.pixels.shape[1:], strict=True)
        )
        return self.pixels[:, rows, columns]


def _part(begin: int, length: int, whole: int, there: int) -> slice:
    first = min(round(begin * there / whole), there - 1)
    return slice(first, max(first + 1, round((begin + length) * there / whole)))


DecodeLimit = Callable[[int, int], float]
"""From an image's height and width to the smallest share of them, in (0, 1], at which it may be decoded."""


def in_full(height: int, width: int) -> float:
    """The whole image, whatever its size."""
    return 1.0


class Images(abc.ABC):
    """A fixed, ordered collection of images."""

    labels: Labels | None = None
    in_memory = False
    """Whether `take` gives a whole batch at once, all of one size."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def decode(self, index: int, least: DecodeLimit = in_full) -> Decoded:
        """The image, upright, with one or three channels.

        Args:
            index: which one.
            least: how small it may be decoded, where that is cheaper: a JPEG at a half, a quarter or an eighth of its size.
        Raises:
            DataError: it cannot be read; the message is the reason.
        """

    def decoded_size(self, index: int, least: DecodeLimit = in_full) -> tuple[int, int]:
        """Height and width of what `decode` gives, without decoding where that is possible.

        Raises:
            DataError: it cannot be read.
        """
        height, width = self.decode(index, least).pixels.shape[1:]
        return height, width

    def take(self, index: NDArray[np.int64]) -> UInt8[Tensor, "b c h w"]:
        """A batch of images, where they are in memory."""
        raise NotImplementedError

    @abc.abstractmethod
    def path(self, index: int) -> str:
        """Relative path with forward slashes, or the row's number."""

    def paths(self) -> pa.Array:
        """Every image's path as text, in order; bytes that are no UTF-8 are spelt out."""
        return pa.array((str(index) for index in range(len(self))), type=pa.large_string())

    @abc.abstractmethod
    def digest(self) -> str:
        """Changes when an image is added, lost or renamed."""

    def fingerprint(self) -> str:
        """Changes with the digest, and when the files that hold the images are written again."""
        return self.digest()


class ArrayImages(Images):
    """Images that stand in one array, in memory or in a memory map.

    Args:
        array: (n, h, w) or (n, h, w, 1 or 3), uint8.
        labels: (n,) numbers or names, or None.
        names: class names where the labels are numbers into them.
    Raises:
        DataError: another shape or type, or labels of another length.
    """

    in_memory = True

    def __init__(self, array: NDArray, labels: ArrayLike | None = None, names: tuple[str, ...] | None = None) -> None:
        if array.dtype != np.uint8:
            raise DataError(
                f"the array holds {array.dtype}, but images must be uint8 from 0 to 255; scale and convert it with .astype('uint8')"
            )
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
            hint = "; move the channels last with array.transpose(0, 2, 3, 1)" if array.ndim == 4 and array.shape[1] in (1, 3) else ""
            raise DataError(f"the array has shape {array.shape}, but images must be (N, H, W) or (N, H, W, 3){hint}")
        if 0 in array.shape:
            raise DataError(f"the array has shape {array.shape}: it holds no images")
        self.array: NDArray[np.uint8] = array if array.ndim == 4 else array[..., None]
        if labels is not None:
            self.labels = labels_of(labels, len(array), names)

    def __len__(self) -> int:
        return len(self.array)

    def take(self, index: NDArray[np.int64]) -> UInt8[Tensor, "b c h w"]:
        """A batch of images."""
        return torch.from_numpy(self.array[index]).permute(0, 3, 1, 2).contiguous()

    def decode(self, index: int, least: DecodeLimit = in_full) -> Decoded:
        return Decoded.whole(self.take(np.array([index]))[0])

    def path(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        # Two checksums of each block tell a change as surely as is needed here, in half the time of a digest.
        digest = hashlib.sha256(repr(self.array.shape).encode())
        for start in range(0, len(self), 64):
            block = np.ascontiguousarray(self.array[start : start + 64]).data
            digest.update(f"{zlib.crc32(block)} {zlib.adler32(block)}\n".encode())
        return digest.hexdigest()

    def digest(self) -> str:
        digest = hashlib.sha256(repr(self.array.shape).encode())
        for start in range(0, len(self), 4096):
            digest.update(np.ascontiguousarray(self.array[start : start + 4096]).data)
        return digest.hexdigest()


class EncodedImages(Images):
    """Images that are kept as image files: in a folder, or as bytes inside larger files.

    Args:
        files: the path of each image, as bytes, in the order of the index.
        max_megapixels: an image that declares more is refused before it is decoded.
    """

    def __init__(self, files: pa.Array, *, max_megapixels: float) -> None:
        self.files, self.max_megapixels = files, max_megapixels

    @abc.abstractmethod
    def encoded(self, index: int) -> Path | bytes:
        """The image's file, or that file's bytes.

        Raises:
            DataError: it cannot be got; the message is the reason.
        """

    @abc.abstractmethod
    def files_on_disk(self) -> Iterator[Path]:
        """Every file that holds images, in order."""

    @abc.abstractmethod
    def contents(self) -> str:
        """What there is, for the user: how many images, in what, and what was left alone."""

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        return os.fsdecode(self.files[index].as_py())

    def paths(self) -> pa.Array:
        try:
            return self.files.cast(pa.large_string())
        except pa.ArrowInvalid:
            return pa.array((path.decode("utf-8", "backslashreplace") for path in self.files.to_pylist()), type=pa.large_string())

    def digest(self) -> str:
        digest = hashlib.sha256()
        for part in range(0, len(self), 65536):
            digest.update(b"\0".join(self.files[part : part + 65536].to_pylist()) + b"\0")
        return digest.hexdigest()

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.digest().encode())
        for file in self.files_on_disk():
            try:
                found = file.stat()
                digest.update(f"{found.st_size} {found.st_mtime_ns} {found.st_mode}\n".encode())
            except OSError:
                digest.update(b"not there\n")
        return digest.hexdigest()

    def decode(self, index: int, least: DecodeLimit = in_full) -> Decoded:
        with opened(self.encoded(index), self.max_megapixels) as image:
            size = upright_size(image)
            reduce(image, least(*size))
            return Decoded(upright_pixels(image), size)

    def decoded_size(self, index: int, least: DecodeLimit = in_full) -> tuple[int, int]:
        with opened(self.encoded(index), self.max_megapixels) as image:
            reduce(image, least(*upright_size(image)))
            return upright_size(image)


def read_array(file: Path) -> NDArray | np.lib.npyio.NpzFile:
    """A .npy file, memory-mapped, or the archive of arrays that a .npz file is.

    Raises:
        DataError: it is not there or is not one.
    """
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read an array from {str(file)!r}: {' '.join(str(error).split())}") from None


def sample_of(images: Images, n: int, least: DecodeLimit = in_full) -> Iterator[Decoded]:
    """What `decode` gives for up to n readable images, spread evenly."""
    for index in np.unique(np.linspace(0, len(images) - 1, n).astype(int)):
        try:
            yield images.decode(int(index), least)
        except DataError:
            continue
