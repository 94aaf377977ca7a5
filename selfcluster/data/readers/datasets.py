"""Data sets known by name: scikit-learn's digits, which come with the install, and torchvision's, which download themselves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from torch.nn.functional import interpolate

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import ArrayImages, Images
from selfcluster.errors import DataError

NAMES = ("digits", "cifar10", "cifar100", "stl10", "fashion-mnist", "imagenette")

_DIGITS_PIXELS = 32


def cache_folder() -> Path:
    """Where downloads go: $SELFCLUSTER_DATA, or selfcluster in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("SELFCLUSTER_DATA") or cache / "selfcluster").expanduser()


def open_named(name: str) -> tuple[Images, Images | None]:
    """Training images, and test images where the set has a split of its own.

    Raises:
        DataError: the set is neither in the cache folder nor to be downloaded.
    """
    if name == "digits":
        return _digits(), None
    try:
        return _OPENERS[name](str(cache_folder() / name))
    except Exception as error:  # torchvision raises URLError, RuntimeError, OSError and more when there is no network
        reason = " ".join(str(error).split())
        raise DataError(
            f"cannot get the data set {name!r} into {str(cache_folder())!r}: {reason}; download it elsewhere, or use digits"
        ) from None


def _digits() -> ArrayImages:
    """1,797 scans of 8 x 8 with 17 grey levels, enlarged to 32 x 32."""
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    scans = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    enlarged = interpolate(scans, (_DIGITS_PIXELS, _DIGITS_PIXELS), mode="bicubic", align_corners=False)
    array = enlarged[:, 0].round().clamp(0, 255).to(torch.uint8).numpy()
    return ArrayImages(array, digits.target, tuple(str(digit) for digit in range(10)))


def _cifar(name: str, root: str) -> tuple[Images, Images]:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    train, test = (kind(root, train=is_train, download=True) for is_train in (True, False))
    return tuple(ArrayImages(part.data, part.targets, tuple(part.classes)) for part in (train, test))  # type: ignore[return-value]


def _fashion_mnist(root: str) -> tuple[Images, Images]:
    from torchvision import datasets

    train, test = (datasets.FashionMNIST(root, train=is_train, download=True) for is_train in (True, False))
    return tuple(ArrayImages(part.data.numpy(), part.targets.numpy(), tuple(part.classes)) for part in (train, test))  # type: ignore[return-value]


def _stl10(root: str) -> tuple[Images, Images]:
    """Training uses the 5,000 labeled and the 100,000 unlabeled images; the latter have label -1."""
    from torchvision import datasets

    parts = (datasets.STL10(root, split=split, download=True) for split in ("train+unlabeled", "test"))
    return tuple(ArrayImages(np.moveaxis(part.data, 1, 3), part.labels, tuple(part.classes)) for part in parts)  # type: ignore[return-value]


def _imagenette(root: str) -> tuple[Images, Images]:
    from torchvision import datasets

    here = Path(root) / "imagenette2"
    if not here.is_dir():
        datasets.Imagenette(root, split="train", size="full", download=True)
    return FolderImages(here / "train"), FolderImages(here / "val")


_OPENERS = {
    "cifar10": lambda root: _cifar("cifar10", root),
    "cifar100": lambda root: _cifar("cifar100", root),
    "stl10": _stl10,
    "fashion-mnist": _fashion_mnist,
    "imagenette": _imagenette,
}
