"""The contract of every collection of images: a length, `decode(index)`, `path(index)`, optional labels, and a digest.

An image's index is its position among the relative paths sorted bytewise, or its row in an array. Everything kept across batches is keyed
by it, so the digest of the paths is stored with every run.
"""

from __future__ import annotations

import abc
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import UInt8
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from selfcluster.data.readers.decoding import draft, opened, upright_pixels, upright_size
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
        ".heic",
        ".heif",
        ".hif",
    ]
)
"""Suffixes of files that are read as images; other files are skipped."""


@dataclass(frozen=True)
class Decoded:
    """A decoded image, at full size or at a reduced scale."""

    pixels: UInt8[Tensor, "c h w"]
    size: tuple[int, int]
    """Height and width of the whole image at full size."""

    @classmethod
    def whole(cls, pixels: UInt8[Tensor, "c h w"]) -> Decoded:
        """Wrap the pixels of an image decoded at full size."""
        return cls(pixels, (pixels.shape[1], pixels.shape[2]))

    def box(self, top: int, left: int, height: int, width: int) -> UInt8[Tensor, "c _ _"]:
        """Return the pixels of a box given in full-size pixels; at least one in each direction."""

        def scaled(begin: int, length: int, full: int, reduced: int) -> slice:
            first = min(round(begin * reduced / full), reduced - 1)
            return slice(first, max(first + 1, round((begin + length) * reduced / full)))

        _, n_rows, n_columns = self.pixels.shape
        return self.pixels[:, scaled(top, height, self.size[0], n_rows), scaled(left, width, self.size[1], n_columns)]


MinScale = Callable[[int, int], float]
"""From an image's height and width to the smallest scale, in (0, 1], at which it may be decoded."""


def full_scale(height: int, width: int) -> float:
    """Return 1: the image is decoded at full size."""
    return 1.0


class Images(abc.ABC):
    """A fixed, ordered collection of images."""

    labels: Labels | None = None
    in_memory = False
    """Whether all images have one size and `take` returns a batch of them."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def decode(self, index: int, min_scale: MinScale = full_scale) -> Decoded:
        """Decode an image, upright, with one or three channels.

        Args:
            index: index of the image.
            min_scale: smallest scale that will do; a JPEG is cheaper to decode at a half, a quarter or an eighth of its size.
        Raises:
            DataError: the image cannot be read; the message is the reason.
        """

    def decoded_size(self, index: int, min_scale: MinScale = full_scale) -> tuple[int, int]:
        """Return height and width of the decoded image, without decoding it if possible.

        Raises:
            DataError: the image cannot be read.
        """
        height, width = self.decode(index, min_scale).pixels.shape[1:]
        return height, width

    def take(self, index: NDArray[np.int64]) -> UInt8[Tensor, "b c h w"]:
        """Return a batch of images that are in memory."""
        raise NotImplementedError

    @abc.abstractmethod
    def path(self, index: int) -> str:
        """Return the relative path with forward slashes, or the number of the row."""

    def paths(self) -> pa.Array:
        """Return the path of every image as text, in order; bytes that are not UTF-8 are escaped."""
        return pa.array((str(index) for index in range(len(self))), type=pa.large_string())

    @abc.abstractmethod
    def digest(self) -> str:
        """Return a digest that changes when an image is added, removed or renamed."""

    def fingerprint(self) -> str:
        """Return a digest that also changes when the files of the images are written again."""
        return self.digest()


class ArrayImages(Images):
    """Images in one array, in memory or memory-mapped.

    Args:
        array: (n, h, w) or (n, h, w, 1 or 3), uint8.
        labels: (n,) numbers or names, or None.
        names: class names, if the labels are numbers into them.
    Raises:
        DataError: the array has another shape or type, or the labels another length.
    """

    in_memory = True

    def __init__(self, array: NDArray, labels: ArrayLike | None = None, names: tuple[str, ...] | None = None) -> None:
        if array.dtype != np.uint8:
            raise DataError(
                f"the array is {array.dtype}, but images must be uint8 from 0 to 255; scale and convert it with .astype('uint8')"
            )
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
            hint = "; move the channels last with array.transpose(0, 2, 3, 1)" if array.ndim == 4 and array.shape[1] in (1, 3) else ""
            raise DataError(f"the array has shape {array.shape}, but images must be (N, H, W) or (N, H, W, 3){hint}")
        if 0 in array.shape:
            raise DataError(f"the array has shape {array.shape}: it contains no images")
        self.array: NDArray[np.uint8] = array if array.ndim == 4 else array[..., None]
        if labels is not None:
            self.labels = labels_of(labels, len(array), names)

    def __len__(self) -> int:
        return len(self.array)

    def take(self, index: NDArray[np.int64]) -> UInt8[Tensor, "b c h w"]:
        """Return a batch of images."""
        return torch.from_numpy(self.array[index]).permute(0, 3, 1, 2).contiguous()

    def decode(self, index: int, min_scale: MinScale = full_scale) -> Decoded:
        return Decoded.whole(self.take(np.array([index]))[0])

    def path(self, index: int) -> str:
        return str(index)

    def fingerprint(self) -> str:
        # Two checksums of each block detect changes well enough, in half the time of a digest.
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
    """Images stored as image files: in a folder, or as bytes inside larger files.

    Args:
        files: path of each image as bytes, in the order of the index.
        max_megapixels: an image that declares more is refused before it is decoded.
    """

    def __init__(self, files: pa.Array, *, max_megapixels: float) -> None:
        self.files, self.max_megapixels = files, max_megapixels

    @abc.abstractmethod
    def encoded(self, index: int) -> Path | bytes:
        """Return the path of the image's file, or the file's content.

        Raises:
            DataError: the file cannot be read; the message is the reason.
        """

    @abc.abstractmethod
    def files_on_disk(self) -> Iterator[Path]:
        """Return every file that contains images, in order."""

    @abc.abstractmethod
    def contents(self) -> str:
        """Describe to the user how many images there are, in what, and what was skipped."""

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> str:
        return os.fsdecode(self.files[index].as_py())

    def paths(self) -> pa.Array:
        try:
            return self.files.cast(pa.large_string())
        except pa.ArrowInvalid:
            return pa.array((path.decode("utf-8", "backslashreplace") for path in self.files.to_pylist()), type=pa.large_string())

    def n_heic(self) -> int:
        """Return the number of photos in Apple's format, which Pillow reads by the extra `heif`."""
        return pc.sum(pc.match_substring_regex(self.files, r"\.(heic|heif|hif)$", ignore_case=True)).as_py() or 0

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

    def decode(self, index: int, min_scale: MinScale = full_scale) -> Decoded:
        with opened(self.encoded(index), self.max_megapixels) as image:
            size = upright_size(image)
            draft(image, min_scale(*size))
            return Decoded(upright_pixels(image), size)

    def decoded_size(self, index: int, min_scale: MinScale = full_scale) -> tuple[int, int]:
        with opened(self.encoded(index), self.max_megapixels) as image:
            draft(image, min_scale(*upright_size(image)))
            return upright_size(image)


def read_array(file: Path) -> NDArray | np.lib.npyio.NpzFile:
    """Open a .npy file, memory-mapped, or a .npz archive of arrays.

    Raises:
        DataError: the file does not exist or is neither.
    """
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises many kinds for a damaged header
        raise DataError(f"cannot read an array from {str(file)!r}: {' '.join(str(error).split())}") from None


def sample_of(images: Images, n: int, min_scale: MinScale = full_scale) -> Iterator[Decoded]:
    """Decode up to n images, spread evenly, and skip those that cannot be read."""
    for index in np.unique(np.linspace(0, len(images) - 1, n).astype(int)):
        try:
            yield images.decode(int(index), min_scale)
        except DataError:
            continue


def why_unreadable(images: Images, index: NDArray[np.int64]) -> dict[int, str]:
    """Return the reason for each of these images that cannot be read, by decoding it."""
    reasons = {}
    for image in index.tolist():
        try:
            images.decode(image)
        except DataError as error:
            reasons[image] = str(error)
    return reasons
