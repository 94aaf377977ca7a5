"""Data sets known by name: scikit-learn's digits, which come with the install, and torchvision's, which are downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import ArrayImages, Images
from selfcluster.errors import DataError

_DIGITS_PIXELS = 32


def cache_folder() -> Path:
    """Return the folder of downloads: $SELFCLUSTER_DATA, or selfcluster in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SELFCLUSTER_DATA") or cache / "selfcluster").expanduser()


def open_named(name: str) -> tuple[Images, Images | None]:
    """Return the training images of a data set, and its test images if it has a test split.

    Raises:
        DataError: the data set is not in the cache folder and cannot be downloaded.
    """
    if name == "digits":
        return _digits(), None
    try:
        return _download(name, str(cache_folder() / name))
    except Exception as error:  # torchvision raises URLError, RuntimeError, OSError and more without a network
        reason = " ".join(str(error).split())
        raise DataError(
            f"cannot get the data set {name!r} into {str(cache_folder())!r}: {reason}; download it elsewhere, or use digits"
        ) from None


def _digits() -> ArrayImages:
    """Return 1,797 scans of 8 x 8 pixels with 17 grey levels, enlarged to 32 x 32."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    enlarged = interpolate(scans, (_DIGITS_PIXELS, _DIGITS_PIXELS), mode="bicubic", align_corners=False)
    array = enlarged[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return ArrayImages(array, digits.target, tuple(str(digit) for digit in range(10)))


def _download(name: str, root: str) -> tuple[Images, Images]:
    """Return the training and test images of one of torchvision's data sets."""
    from torchvision import datasets

    if name == "imagenette":
        folder = Path(root) / "imagenette2"
        if not folder.is_dir():
            datasets.Imagenette(root, split="train", size="full", download=True)
        return FolderImages(folder / "train"), FolderImages(folder / "val")
    if name == "stl10":  # 5,000 labeled and 100,000 unlabeled images to train on; the latter have label -1
        stl = (datasets.STL10(root, split=split, download=True) for split in ("train+unlabeled", "test"))
        train, test = (ArrayImages(np.moveaxis(part.data, 1, 3), part.labels, tuple(part.classes)) for part in stl)
        return train, test
    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion-mnist": datasets.FashionMNIST}[name]
    parts = (kind(root, train=is_train, download=True) for is_train in (True, False))
    train, test = (ArrayImages(np.asarray(part.data), np.asarray(part.targets), tuple(part.classes)) for part in parts)
    return train, test
