"""From what the user calls DATA to images: a folder, tar or parquet files, an array file, an array, or a named data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfcluster import distributed
from selfcluster.data.dataset import Data
from selfcluster.data.file_names import TEST_SPLITS, absolute, files_of, is_packed, splits_among
from selfcluster.data.label_files import set_labels
from selfcluster.data.readers import datasets
from selfcluster.data.readers.decoding import HEIC_EXTRA, READS_HEIC
from selfcluster.data.readers.folder import FolderImages, ListedImages, Listing, scan
from selfcluster.data.readers.images import ENDINGS, ArrayImages, EncodedImages, read_array
from selfcluster.data.readers.parquet import ParquetImages
from selfcluster.data.readers.tar import TarImages
from selfcluster.errors import DataError
from selfcluster.paths import DATA_SETS, check_images, split_column
from selfcluster.settings.config import DataSettings


def open_data(given: Any, settings: DataSettings) -> Data:
    """Open the images that the user passed.

    Args:
        given: a folder; tar or parquet files (one, a folder of them, or a pattern; a suffix `#column` names the column of images); a .npy or
            .npz file (keys images, labels); the name of a data set; an array of images; or a list of paths to image files.
        settings: labels and limits.
    Raises:
        DataError: nothing is there, it contains no images, an array has the wrong shape or type, or the labels do not fit.
    """
    data = _open(given, settings)
    if data.test is not None and settings.labels not in ("auto", "none"):
        raise DataError(
            f"labels {settings.labels!r} are for one set of images, but {data.name} has splits; pass one split as IMAGES and the other as --test"
        )
    set_labels(data.images, settings.labels)
    if data.test is not None and settings.labels == "none":
        data.test.labels = None
    if data.test is not None and data.test.labels is not None and data.images.labels is not None:
        # A class in only one of the splits would shift the codes of the others.
        data.test.labels = data.test.labels.renamed(data.images.labels.names)
    if not READS_HEIC and isinstance(data.images, EncodedImages) and (n := data.images.n_heic()):
        return replace(data, notes=(*data.notes, f"HEIC files need {HEIC_EXTRA}; {n:,} cannot be read"))
    return data


def _open(given: Any, settings: DataSettings) -> Data:
    if isinstance(given, list | tuple) and given and isinstance(given[0], str | Path):
        listed = ListedImages(given, max_megapixels=settings.max_megapixels)
        return Data("files", "", listed, notes=(f"{len(listed):,} files",))
    if not isinstance(given, str | Path):
        try:
            array = np.asarray(given)
        except (TypeError, ValueError) as error:
            raise DataError(f"cannot make one array of the given images: {' '.join(str(error).split())}") from None
        return Data("array", "", ArrayImages(array))
    if not str(given):
        raise DataError("no data given; pass a folder of images, a .npy file, or a data set such as digits")
    check_images(str(given))
    before, column = split_column(str(given))
    path = Path(before).expanduser()

    def packed(root: Path, names: Sequence[str], name: str, where: str) -> Data:
        images = open_packed(root, names, column=column, max_megapixels=settings.max_megapixels)
        return Data(name, _with_column(where, column), images, notes=(f"{path}: {images.contents()}",))

    if path.is_dir():
        return _open_folder(path, column, settings)
    if path.is_file() and is_packed(path.name):
        # Links are not resolved: their targets may have names without a suffix, as in the cache of the Hugging Face hub.
        return packed(path.parent, [path.name], path.stem, os.path.abspath(path))
    if path.suffix.lower() in ENDINGS and path.is_file():
        raise DataError(f"{str(path)!r} is a single image; pass the folder that contains it, {str(path.parent)!r}, or a list of files")
    if path.is_file():
        return _open_array_file(path, column)
    if str(given) in DATA_SETS:
        with distributed.rank_0_first():
            train, test = datasets.open_named(str(given))
        return Data(str(given), str(given), train, test, notes=(f"{given}: {len(train):,} images",))
    root, names = files_of(str(path))
    return packed(root, names, root.name, absolute(str(path)))


def _with_column(path: str, column: str) -> str:
    return f"{path}#{column}" if column else path


def _refuse_column(column: str, path: Path) -> None:
    if column:
        raise DataError(f"#{column} names a column of parquet files, but {str(path)!r} is not parquet; leave it out")


def _open_folder(path: Path, column: str, settings: DataSettings) -> Data:
    def images_in(folder: Path, found: Listing) -> EncodedImages:
        if found.packed and not len(found.images):
            return open_packed(folder, found.packed, column=column, max_megapixels=settings.max_megapixels)
        _refuse_column(column, folder)
        return FolderImages(folder, max_megapixels=settings.max_megapixels, found=found)

    def with_splits(train: EncodedImages, test: EncodedImages, name: str, unused: str, test_where: str = "") -> Data:
        found = f"found train/{name} splits in {path}: training on train, keeping {name} for evaluation{unused}"
        notes = (found, f"train: {train.contents()}", f"{name}: {test.contents()}")
        return Data(path.resolve().name, where, train, test, test_where, notes)

    where = _with_column(str(path.resolve()), column)
    split_folders = [path / name for name in TEST_SPLITS if (path / name).is_dir()]
    if (path / "train").is_dir() and split_folders:
        test_folder, *others = split_folders
        train, test = (images_in(folder, scan(folder)) for folder in (path / "train", test_folder))
        unused = f"; {others[0].name}/ is not used" if others else ""
        return with_splits(train, test, test_folder.name, unused, _with_column(str(test_folder), column))
    found = scan(path)
    if not len(found.images) and (splits := splits_among(found.packed)) is not None:
        train, test = (images_in(path, replace(found, packed=names)) for names in (splits.train, splits.test))
        unused = f"; {len(splits.unused):,} other files are not used, such as {splits.unused[0]!r}" if splits.unused else ""
        return with_splits(train, test, splits.name, unused)
    images = images_in(path, found)
    return Data(path.resolve().name, where, images, notes=(f"{path}: {images.contents()}",))


def open_packed(root: Path, names: Sequence[str], *, column: str, max_megapixels: float) -> EncodedImages:
    """Open the images in packed files of one kind.

    Args:
        root: folder that the names are relative to.
        names: names of the files.
        column: column of images in parquet files; "" for the only one that can contain images.
        max_megapixels: an image that declares more is refused before it is decoded.
    Raises:
        DataError: the files are of two kinds or cannot be read.
    """
    tables = [name for name in names if name.lower().endswith(".parquet")]
    if not tables:
        _refuse_column(column, root / names[0])
        return TarImages(root, names, max_megapixels=max_megapixels)
    if len(tables) < len(names):
        raise DataError(
            f"{str(root)!r} contains both tar and parquet files; choose one kind, such as {str(root / '*.tar')!r} or {str(root / '*.parquet')!r}"
        )
    n_copies = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return ParquetImages(root, names, column=column, max_megapixels=max_megapixels, n_copies=n_copies)


def _open_array_file(path: Path, column: str) -> Data:
    _refuse_column(column, path)
    if path.suffix.lower() not in (".npy", ".npz"):
        raise DataError(
            f"{str(path)!r} is of an unknown kind; pass a folder, a .tar, .parquet, .npy or .npz file, or one of {', '.join(DATA_SETS)}"
        )
    content = read_array(path)
    array, labels = (content, None) if isinstance(content, np.ndarray) else _images_and_labels(path, content)
    images = ArrayImages(array, labels)
    return Data(path.stem, str(path.resolve()), images, notes=(f"{path}: {len(images):,} images",))


def _images_and_labels(path: Path, archive: np.lib.npyio.NpzFile) -> tuple[NDArray, NDArray | None]:
    with archive:
        keys = archive.files
        if "images" not in keys and len(keys) != 1:
            raise DataError(
                f"{str(path)!r} contains {', '.join(map(repr, keys)) or 'nothing'}; name the array of images 'images' and the labels 'labels'"
            )
        try:
            return archive["images" if "images" in keys else keys[0]], archive["labels"] if "labels" in keys else None
        except Exception as error:  # zipfile and NumPy raise many kinds for a damaged archive
            raise DataError(f"cannot read {str(path)!r}: {' '.join(str(error).split())}") from None
