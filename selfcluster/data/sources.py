"""From what the user calls DATA to images: a folder, tar or parquet files, an array file, an array, or a named set."""

from __future__ import annotations

import csv
import glob
import os
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfcluster import distributed
from selfcluster.data.readers import datasets
from selfcluster.data.readers.folder import PACKED, FolderImages, ListedImages, Listing, scan
from selfcluster.data.readers.images import ArrayImages, EncodedImages, Images, read_array
from selfcluster.data.readers.labels import Labels, labels_of
from selfcluster.data.readers.parquet import ParquetImages
from selfcluster.data.readers.tar import TarImages
from selfcluster.data.splits import TEST_SPLITS, split, splits_among
from selfcluster.errors import DataError, known
from selfcluster.settings.config import DataSettings


@dataclass(frozen=True)
class Data:
    """Images to train on, perhaps others to test on, and what should be said about them."""

    name: str
    """Short name, for the run folder."""
    where: str
    """What the user gave, as an absolute path where it is one; the run keeps it."""
    images: Images
    test: Images | None = None
    notes: tuple[str, ...] = field(default=())

    def trained_on(self, settings: DataSettings, seed: int) -> NDArray[np.int64]:
        """Indices of the images to train on: all, or all but the test share, stratified by label where there are labels."""
        if not settings.test_share:
            return np.arange(len(self.images))
        train, _ = split(self.images, settings.test_share, seed)
        return train


def open_data(given: Any, settings: DataSettings) -> Data:
    """The images behind what the user gave.

    Args:
        given: a folder; tar or parquet files (one, a folder of them, or a pattern; `#column` behind it names the column of images); a .npy or .npz
            file (keys images, labels); the name of a set; an array of images; or a list of paths to image files.
        settings: labels and limits.
    Raises:
        DataError: nothing there, no images, an array of the wrong shape or type, or labels that do not fit.
    """
    data = _open(given, settings)
    if data.test is not None and settings.labels not in ("auto", "none"):
        raise DataError(
            f"labels {settings.labels!r} belong to one set of images, but {data.name} has splits; name the split itself, and the other with --test"
        )
    with_labels(data.images, settings.labels)
    if data.test is not None and settings.labels == "none":
        data.test.labels = None
    if data.test is not None and data.test.labels is not None and data.images.labels is not None:
        # A class that only one of the two holds would shift the codes of the others.
        data.test.labels = data.test.labels.renamed(data.images.labels.names)
    return data


def _open(given: Any, settings: DataSettings) -> Data:
    if isinstance(given, list | tuple) and given and isinstance(given[0], str | Path):
        listed = ListedImages(given, max_megapixels=settings.max_megapixels)
        return Data("files", "", listed, None, (f"{len(listed):,} files",))
    if not isinstance(given, str | Path):
        return Data("array", "", ArrayImages(_as_array(given)))
    if not str(given):
        raise DataError("no data given; name a folder of images, a .npy file, or a set such as digits")
    path, column = _without_column(given)
    if path.is_dir():
        return _open_folder(path, column, settings)
    if path.is_file():
        return _open_packed_file(path, column, settings) if is_packed(path.name) else _open_file(path, column)
    if str(given) in datasets.NAMES:
        with distributed.rank_0_first():
            train, test = datasets.open_named(str(given))
        return Data(str(given), str(given), train, test, (f"{given}: {len(train):,} images",))
    if is_pattern(str(path)):
        return _open_pattern(str(path), column, settings)
    try:
        known(str(given), datasets.NAMES, "name of a data set")
    except ValueError as error:
        hint = str(error).split("; ")[-1]
        raise DataError(f"no file or folder {str(given)!r}, and no data set of that name; {hint}") from None
    raise AssertionError


def _as_array(given: Any) -> NDArray:
    try:
        return np.asarray(given)
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot make one array of what was given: {' '.join(str(error).split())}") from None


def _without_column(given: str | Path) -> tuple[Path, str]:
    """What comes before and behind the sign in `photos.parquet#thumbnail`, unless there is a file of that very name."""
    before, sign, column = str(given).rpartition("#")
    is_column = bool(sign) and not Path(given).expanduser().exists()
    return Path(before if is_column else given).expanduser(), column if is_column else ""


def _named(path: str, column: str) -> str:
    return f"{path}#{column}" if column else path


def _without(column: str, path: Path) -> None:
    if column:
        raise DataError(f"#{column} would be a column of parquet files, but {str(path)!r} is of another kind; leave it out")


def _open_folder(path: Path, column: str, settings: DataSettings) -> Data:
    def images_in(folder: Path, found: Listing) -> EncodedImages:
        if found.packed and not len(found.images):
            return open_packed(folder, found.packed, column=column, max_megapixels=settings.max_megapixels)
        _without(column, folder)
        return FolderImages(folder, max_megapixels=settings.max_megapixels, found=found)

    def of_splits(train: EncodedImages, test: EncodedImages, name: str, said: str) -> Data:
        notes = (f"{path} has splits: {said}", f"train: {train.contents()}", f"{name}: {test.contents()}")
        return Data(path.resolve().name, where, train, test, notes)

    where = _named(str(path.resolve()), column)
    test_folder = next((path / name for name in TEST_SPLITS if (path / name).is_dir()), None)
    if (path / "train").is_dir() and test_folder is not None:
        train, test = (images_in(folder, scan(folder)) for folder in (path / "train", test_folder))
        other = [name for name in TEST_SPLITS if name != test_folder.name and (path / name).is_dir()]
        unused = f"; {other[0]}/ is not used" if other else ""
        return of_splits(train, test, test_folder.name, f"training on train/, keeping {test_folder.name}/ for evaluation{unused}")
    found = scan(path)
    if not len(found.images) and (splits := splits_among(found.packed)) is not None:
        train, test = (images_in(path, replace(found, packed=names)) for names in (splits.train, splits.test))
        unused = f"; {len(splits.unused):,} others are not used, such as {splits.unused[0]!r}" if splits.unused else ""
        said = f"training on the files called train, keeping those called {splits.name} for evaluation{unused}"
        return of_splits(train, test, splits.name, said)
    images = images_in(path, found)
    return Data(path.resolve().name, where, images, None, (f"{path}: {images.contents()}",))


def _open_packed_file(path: Path, column: str, settings: DataSettings) -> Data:
    images = open_packed(path.parent, [path.name], column=column, max_megapixels=settings.max_megapixels)
    # Links stay, since what they lead to may have a name that says nothing, as in the cache of the Hugging Face hub.
    return Data(path.stem, _named(os.path.abspath(path), column), images, None, (f"{path}: {images.contents()}",))


def _open_pattern(pattern: str, column: str, settings: DataSettings) -> Data:
    root, names = files_of(pattern)
    images = open_packed(root, names, column=column, max_megapixels=settings.max_megapixels)
    return Data(root.name, _named(absolute(pattern), column), images, None, (f"{pattern}: {images.contents()}",))


def _open_file(path: Path, column: str) -> Data:
    _without(column, path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(
            f"{str(path)!r} is a file of a kind that is not known; give a folder, a .tar, .parquet, .npy or .npz file, or one of {', '.join(datasets.NAMES)}"
        )
    content = read_array(path)
    array, labels = (content, None) if isinstance(content, np.ndarray) else _images_and_labels(path, content)
    images = ArrayImages(array, labels)
    return Data(path.stem, str(path.resolve()), images, None, (f"{path}: {len(images):,} images",))


def _images_and_labels(path: Path, archive: np.lib.npyio.NpzFile) -> tuple[NDArray, NDArray | None]:
    with archive:
        keys = archive.files
        if "images" not in keys and len(keys) != 1:
            raise DataError(
                f"{str(path)!r} holds {', '.join(keys) or 'nothing'}; name the array of images 'images' and the labels 'labels'"
            )
        try:
            return archive["images" if "images" in keys else keys[0]], archive["labels"] if "labels" in keys else None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"cannot read {str(path)!r}: {' '.join(str(error).split())}") from None


def is_packed(name: str) -> bool:
    """Whether a file of this name holds many images, so far as names tell."""
    return PACKED.search(os.fsencode(name)) is not None


def is_pattern(given: str) -> bool:
    """Whether this can stand for several files."""
    return any(sign in given for sign in "*?[{")


def open_packed(root: Path, names: Sequence[str], *, column: str, max_megapixels: float) -> EncodedImages:
    """The images in these files, which are all of one kind.

    Args:
        root: the folder that their names are relative to.
        names: of the files.
        column: of parquet files, that holds the images; "" for the only one that can.
        max_megapixels: an image that declares more is refused before it is decoded.
    Raises:
        DataError: files of two kinds, or that cannot be read.
    """
    in_tables = [name for name in names if name.lower().endswith(".parquet")]
    if not in_tables:
        if column:
            raise DataError(f"#{column} would be a column of parquet files, but {str(root / names[0])!r} is a tar; leave it out")
        return TarImages(root, names, max_megapixels=max_megapixels)
    if len(in_tables) < len(names):
        raise DataError(
            f"{str(root)!r} holds both tar and parquet files; choose, as in {str(root / '*.tar')!r} or {str(root / '*.parquet')!r}"
        )
    n_copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return ParquetImages(root, names, column=column, max_megapixels=max_megapixels, n_copies=n_copies)


def files_of(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """The files that a pattern stands for, as a folder and names relative to it.

    Args:
        pattern: with `*`, `?`, `[...]` and `**` as in a shell, `{000..009}` for numbers and `{a,b}` for alternatives.
    Raises:
        DataError: there is none, one of the numbers or alternatives is missing, or there are files of another kind.
    """
    files: list[str] = []
    for one in _alternatives(os.path.expanduser(pattern)):
        found = sorted(glob.glob(one, recursive=True), key=os.fsencode) if glob.has_magic(one) else [one] * os.path.isfile(one)
        if not found:
            raise DataError(f"no file {one!r}{f', which {pattern!r} asks for' if one != pattern else ''}")
        files += found
    if other := [file for file in files if not is_packed(file)]:
        raise DataError(f"{other[0]!r}, which {pattern!r} stands for, is neither .tar nor .parquet; for single images give their folder")
    root = Path(os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files]))
    return root, tuple(os.path.relpath(file, root) for file in dict.fromkeys(files))


def absolute(pattern: str) -> str:
    """The same pattern from any folder."""
    pattern = os.path.expanduser(pattern)
    return pattern if os.path.isabs(pattern) else os.path.join(glob.escape(os.getcwd()), pattern)


def _alternatives(pattern: str) -> list[str]:
    """`a{1..3}` stands for a1, a2 and a3; `{x,y}` for x and y. Zeros in front of the first number are kept."""
    braces = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if braces is None:
        return [pattern]
    if braces[3] is not None:
        parts = braces[3].split(",")
    else:
        first, last = int(braces[1]), int(braces[2])
        numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
        parts = [f"{number:0{len(braces[1])}}" for number in numbers]
    tails = _alternatives(pattern[braces.end() :])
    return [pattern[: braces.start()] + part + tail for part in parts for tail in tails]


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
