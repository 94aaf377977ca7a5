"""Where images come from. One contract for all: a length, `decode(index)`, `path(index)`, perhaps labels, and a digest.

An image's index is its position among the relative paths sorted bytewise, or its row in an array. Everything that is kept across
batches is keyed by it, so the digest of the paths is stored with every run.
"""

from __future__ import annotations

import abc
import csv
import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import UInt8
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from selfcluster.decoding import opened, reduce, upright_pixels, upright_size
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

PACKED = re.compile(rb"\.(tar(\.(gz|bz2|xz|zst|lz4|Z))?|tgz|tbz2?|txz|tzst|parquet)$", re.IGNORECASE)
"""Names of files that hold many images, compressed ones too, so that they can be told why not."""


@dataclass(frozen=True)
class Labels:
    """A class for each image, for evaluation only."""

    codes: NDArray[np.int64]
    """Place in `names`; -1 where an image has no label."""
    names: tuple[str, ...]

    def take(self, index: ArrayLike) -> Labels:
        """Those of some images."""
        return Labels(self.codes[np.asarray(index)], self.names)

    def renamed(self, names: tuple[str, ...]) -> Labels:
        """The same classes under the codes of another list of names, to which unknown ones are added."""
        names = names + tuple(name for name in self.names if name not in names)
        place = np.array([names.index(name) for name in self.names] + [-1])
        return Labels(place[self.codes], names)


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


Least = Callable[[int, int], float]
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
    def decode(self, index: int, least: Least = in_full) -> Decoded:
        """The image, upright, with one or three channels.

        Args:
            index: which one.
            least: how small it may be decoded, where that is cheaper: a JPEG at a half, a quarter or an eighth of its size.
        Raises:
            DataError: it cannot be read; the message is the reason.
        """

    def decoded_size(self, index: int, least: Least = in_full) -> tuple[int, int]:
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

    def decode(self, index: int, least: Least = in_full) -> Decoded:
        return Decoded.whole(self.take(np.array([index]))[0])

    def path(self, index: int) -> str:
        return str(index)

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

    def decode(self, index: int, least: Least = in_full) -> Decoded:
        with opened(self.encoded(index), self.max_megapixels) as image:
            size = upright_size(image)
            reduce(image, least(*size))
            return Decoded(upright_pixels(image), size)

    def decoded_size(self, index: int, least: Least = in_full) -> tuple[int, int]:
        with opened(self.encoded(index), self.max_megapixels) as image:
            reduce(image, least(*upright_size(image)))
            return upright_size(image)


class FolderImages(EncodedImages):
    """The image files below a folder, nested or flat.

    Args:
        root: the folder.
        max_megapixels: an image that declares more is refused before it is decoded.
        found: what `scan` has found there, where it was asked before.
    Raises:
        DataError: there is no such folder, or no image in it.
    """

    def __init__(self, root: str | Path, *, max_megapixels: float = 100.0, found: Found | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"no folder {str(root)!r}")
        found = found or scan(self.root)
        self.packed, self.n_left_alone = found.packed, found.n_other + len(found.packed)
        if len(found.images) == 0:
            raise DataError(f"no images found in {str(root)!r}; looked for {' '.join(sorted(ENDINGS))}")
        super().__init__(found.images.take(pc.sort_indices(found.images)), max_megapixels=max_megapixels)
        self.labels = parent_folders(self.files)

    def encoded(self, index: int) -> Path:
        return self.root / self.path(index)

    def contents(self) -> str:
        left = f"; {self.n_left_alone:,} files of other kinds left alone" if self.n_left_alone else ""
        packed = f", {self.packed[0]!r} among them: name it to train on what it holds" if self.packed else ""
        return f"{len(self):,} images{left}{packed}"


class ListedImages(EncodedImages):
    """Image files that are named one by one, in that order.

    Args:
        files: their paths.
        max_megapixels: an image that declares more is refused before it is decoded.
    Raises:
        DataError: no path is named, or what is named is none.
    """

    def __init__(self, files: Sequence[Any], *, max_megapixels: float = 100.0) -> None:
        if not all(isinstance(file, str | Path) for file in files) or not files:
            raise DataError(f"a list of {len(files):,} things was given, but not of paths to image files")
        super().__init__(
            pa.array([os.fsencode(Path(file).absolute()) for file in files], type=pa.large_binary()), max_megapixels=max_megapixels
        )

    def encoded(self, index: int) -> Path:
        return Path(self.path(index))

    def contents(self) -> str:
        return f"{len(self):,} images"


def parent_folders(paths: pa.Array) -> Labels | None:
    """Parent folders as classes, where every image lies exactly one level deep in at least two of them."""
    depth = pc.count_substring(paths, b"/")
    if pc.min_max(depth).as_py() != {"min": 1, "max": 1}:
        return None
    encoded = pc.dictionary_encode(pc.replace_substring_regex(paths, rb"(?s)/.*", b""))
    names = [os.fsdecode(name) for name in encoded.dictionary.to_pylist()]
    if len(names) < 2:
        return None
    return Labels(encoded.indices.to_numpy().astype(np.int64), tuple(names))


@dataclass(frozen=True)
class Found:
    """The files below a folder, by their paths relative to it."""

    images: pa.Array
    """Unsorted."""
    packed: tuple[str, ...]
    """Those that hold many images, sorted bytewise."""
    n_other: int


def scan(root: Path) -> Found:
    """What lies below a folder.

    Hidden files and folders are passed over, and so is every run folder; links to folders are followed once.
    """
    chunks, packed, n_other, seen, folders = [], [], 0, set(), [b""]
    base = os.fsencode(root)
    while folders:
        folder = folders.pop()
        real = os.path.realpath(os.path.join(base, folder))
        if real in seen:
            continue
        seen.add(real)
        files, folders_here = [], []
        try:
            entries = list(os.scandir(os.path.join(base, folder)))
        except OSError as error:
            raise DataError(f"cannot list {os.fsdecode(os.path.join(base, folder))!r}: {error.strerror}") from None
        names = {entry.name for entry in entries}
        if folder and {b"config.toml", b"environment.json"} <= names:
            continue
        for entry in entries:
            path = folder + b"/" + entry.name if folder else entry.name
            if entry.name.startswith(b"."):
                continue
            if _is_folder(entry):
                folders_here.append(path)
            elif os.path.splitext(entry.name)[1].lower().decode(errors="replace") in ENDINGS:
                files.append(path)
            elif PACKED.search(entry.name):
                packed.append(path)
            else:
                n_other += 1
        chunks.append(pa.array(files, type=pa.large_binary()))
        # In bytewise order, so that of two ways to one folder the first is taken, whatever order the file system lists them in.
        folders.extend(sorted(folders_here, reverse=True))
    return Found(pa.concat_arrays(chunks), tuple(os.fsdecode(path) for path in sorted(packed)), n_other)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    # DirEntry.is_dir() raises for a link that leads to itself; os.path.isdir does not, but costs a call to the system.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def labels_of(values: ArrayLike, n: int, names: tuple[str, ...] | None = None) -> Labels:
    """Labels from one value per image: class names, or numbers (negative for none).

    Raises:
        DataError: not one value per image.
    """
    values = np.asarray(values).reshape(-1)
    if len(values) != n:
        raise DataError(f"{len(values):,} labels for {n:,} images; give one label per image")
    if names is not None:
        return Labels(np.maximum(values.astype(np.int64), -1), tuple(names))
    if np.issubdtype(values.dtype, np.floating):
        values = np.where(np.isnan(values), -1, values)
        if not (values == np.round(values)).all():
            raise DataError("labels are fractions; give class numbers or names")
        values = values.astype(np.int64)
    known, codes = np.unique(values, return_inverse=True)
    unlabelled = known < 0 if np.issubdtype(known.dtype, np.integer) else known.astype(str) == ""
    codes = np.where(unlabelled[codes], -1, codes - unlabelled.sum())
    return Labels(codes.astype(np.int64), tuple(known[~unlabelled].astype(str).tolist()))


def labels_in(column: pa.Array) -> Labels:
    """Labels from an Arrow array of class names (text, or bytes of text) or numbers; null, a negative number or empty text is none.

    Text is taken for numbers where all of it is, so that class 10 comes behind class 9.
    """
    encoded = pc.dictionary_encode(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
    values = encoded.dictionary.to_pylist()
    texts = [value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value for value in values]
    are_numbers = all(isinstance(text, str) and text.removeprefix("-").isdecimal() for text in texts)
    distinct = labels_of([int(text) for text in texts] if are_numbers else texts, len(texts))
    return Labels(np.append(distinct.codes, -1)[encoded.indices.fill_null(len(texts)).to_numpy()], distinct.names)


def with_labels(images: Images, labels: str) -> None:
    """The images have the labels that the setting asks for: auto, none, a CSV file (path, label) or a .npy file.

    Raises:
        DataError: a file that cannot be read, or that does not fit the images.
    """
    if labels == "auto":
        return
    if labels == "none":
        images.labels = None
    elif labels.endswith(".npy"):
        values = read_array(Path(labels))
        if not isinstance(values, np.ndarray):
            raise DataError(f"{labels!r} is an archive of arrays; save the labels alone with np.save")
        images.labels = labels_of(values, len(images))
    elif labels.endswith(".csv"):
        images.labels = _labels_from_csv(images, Path(labels))
    else:
        raise DataError(f"labels {labels!r} must be auto, none, a .csv file with lines path,label, or a .npy file")


def _labels_from_csv(images: Images, file: Path) -> Labels:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = {row[0].strip(): row[1].strip() for row in csv.reader(lines) if len(row) >= 2}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read labels from {str(file)!r}: {error}") from None
    values = [rows.get(images.path(i), "") for i in range(len(images))]
    if not any(values):
        raise DataError(f"no path in {str(file)!r} is one of the images; the first image is {images.path(0)!r}")
    # As among numbers, a negative one means none.
    return labels_of(["" if value.startswith("-") and value[1:].isdigit() else value for value in values], len(images))


def read_array(file: Path) -> NDArray | np.lib.npyio.NpzFile:
    """A .npy file, memory-mapped, or the archive of arrays that a .npz file is.

    Raises:
        DataError: it is not there or is not one.
    """
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read an array from {str(file)!r}: {' '.join(str(error).split())}") from None


def sample_of(images: Images, n: int, least: Least = in_full) -> Iterator[Decoded]:
    """What `decode` gives for up to n readable images, spread evenly."""
    for index in np.unique(np.linspace(0, len(images) - 1, n).astype(int)):
        try:
            yield images.decode(int(index), least)
        except DataError:
            continue
