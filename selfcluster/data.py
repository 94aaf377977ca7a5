"""From what the user calls DATA to images: a folder, tar or parquet files, an array file, an array, or a named set; and the split for evaluation."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfcluster import distributed, named_sets, randomness
from selfcluster.errors import DataError, known
from selfcluster.images import ArrayImages, EncodedImages, FolderImages, Found, Images, ListedImages, read_array, scan, with_labels
from selfcluster.packed import TEST_SPLITS, absolute, files_of, is_packed, is_pattern, open_packed, splits_among
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
    if str(given) in named_sets.NAMES:
        with distributed.rank_0_first():
            train, test = named_sets.open_named(str(given))
        return Data(str(given), str(given), train, test, (f"{given}: {len(train):,} images",))
    if is_pattern(str(path)):
        return _open_pattern(str(path), column, settings)
    try:
        known(str(given), named_sets.NAMES, "name of a data set")
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
    def images_in(folder: Path, found: Found) -> EncodedImages:
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
            f"{str(path)!r} is a file of a kind that is not known; give a folder, a .tar, .parquet, .npy or .npz file, or one of {', '.join(named_sets.NAMES)}"
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


def split(images: Images, test_share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and to test on, seeded; stratified where there are labels, with one a class at least on both sides.

    Raises:
        DataError: the share is not between 0 and 1, or leaves one side empty.
    """
    if not 0 < test_share < 1:
        raise DataError(f"test_share {test_share} is not between 0 and 1; use a share such as 0.2")
    key = randomness.uniform(seed, _SPLIT, np.arange(len(images)), n=1)[:, 0]
    codes = images.labels.codes if images.labels is not None else np.zeros(len(images), dtype=np.int64)
    is_test = np.zeros(len(images), dtype=bool)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        n_test = min(max(1, round(test_share * len(members))), len(members) - 1)
        is_test[members[np.argsort(key[members])[:n_test]]] = True
    if not is_test.any() or is_test.all():
        raise DataError(f"test_share {test_share} of {len(images)} images leaves one side empty")
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


_SPLIT = 0x5711
"""Keeps the split's draws apart from every other use of the seed."""
