"""Data sets by name, from files in their published form."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from selfcluster.data.readers.datasets import cache_folder, open_named
from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.sources import open_data
from selfcluster.errors import DataError
from selfcluster.settings.config import DataSettings

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFCLUSTER_DATA", str(tmp_path))
    return tmp_path


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def without_checksums(monkeypatch: pytest.MonkeyPatch, kind: type, *lists: str) -> None:
    for name in lists:
        monkeypatch.setattr(kind, name, [[file, None] for file, _ in getattr(kind, name)])


def test_digits_need_no_network() -> None:
    data = open_data("digits", DataSettings())
    images = data.images
    assert isinstance(images, ArrayImages)
    assert images.array.shape == (1797, 32, 32, 1)
    assert (data.name, data.where, data.test) == ("digits", "digits", None)
    assert data.notes == ("digits: 1,797 images",)
    assert images.labels is not None
    assert images.labels.names == tuple("0123456789")
    assert np.bincount(images.labels.codes).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert images.array.min() == 0
    assert images.array.max() == 255
    # A zero is dark in the middle, a one is light there.
    middle = images.array[:, 12:20, 14:18, 0].mean(axis=(1, 2))
    assert middle[images.labels.codes == 0].mean() < 60 < 150 < middle[images.labels.codes == 1].mean()


def cifar(folder: Path, kind: type[datasets.CIFAR10], key: str, n: int) -> tuple[np.ndarray, list[int]]:
    """Each file with n images; returns those of the training files."""
    base = folder / kind.base_folder
    base.mkdir(parents=True)
    pixels, labels = [], []
    for name, _ in kind.train_list + kind.test_list:
        rows, mine = noise(n, 3072), RNG.integers(0, 3, n).tolist()
        (base / name).write_bytes(pickle.dumps({"data": rows, key: mine}))
        if [name, None] in kind.train_list:
            pixels.append(rows)
            labels += mine
    (base / str(kind.meta["filename"])).write_bytes(pickle.dumps({kind.meta["key"]: ["ant", "bee", "cat"]}))
    return np.concatenate(pixels), labels


@pytest.mark.parametrize(
    ("name", "kind", "key", "n_train"), [("cifar10", datasets.CIFAR10, "labels", 20), ("cifar100", datasets.CIFAR100, "fine_labels", 4)]
)
def test_cifar(cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: type[datasets.CIFAR10], key: str, n_train: int) -> None:
    without_checksums(monkeypatch, kind, "train_list", "test_list")
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": None})
    rows, labels = cifar(cache / name, kind, key, n=4)
    train, test = open_named(name)
    assert (len(train), len(test or ())) == (n_train, 4)
    assert (train.decode(n_train - 1).pixels.numpy() == rows[-1].reshape(3, 32, 32)).all()
    assert train.labels is not None
    assert train.labels.names == ("ant", "bee", "cat")
    assert train.labels.codes.tolist() == labels


def idx(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes())


def test_fashion_mnist(cache: Path) -> None:
    raw = cache / "fashion-mnist" / "FashionMNIST" / "raw"
    x, y = noise(5, 28, 28), np.array([9, 0, 3, 3, 1], np.uint8)
    idx(raw / "train-images-idx3-ubyte", x)
    idx(raw / "train-labels-idx1-ubyte", y)
    idx(raw / "t10k-images-idx3-ubyte", x[:2])
    idx(raw / "t10k-labels-idx1-ubyte", y[:2])
    train, test = open_named("fashion-mnist")
    assert (train.decode(4).pixels.numpy() == x[4]).all()
    assert train.labels is not None
    assert train.labels.codes.tolist() == y.tolist()
    assert train.labels.names[9] == "Ankle boot"
    assert len(test or ()) == 2


def test_the_unlabeled_images_of_stl10_have_no_label(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_checksums(monkeypatch, datasets.STL10, "train_list", "test_list")
    base = cache / "stl10" / "stl10_binary"
    base.mkdir(parents=True)
    labeled, unlabeled = noise(2, 3, 96, 96), noise(3, 3, 96, 96)
    for name, content in {
        "train_X.bin": labeled,
        "train_y.bin": np.array([10, 1], np.uint8),
        "unlabeled_X.bin": unlabeled,
        "test_X.bin": noise(1, 3, 96, 96),
        "test_y.bin": np.array([2], np.uint8),
    }.items():
        content.tofile(base / name)
    (base / "class_names.txt").write_text("\n".join("abcdefghij"))
    train, test = open_named("stl10")
    assert train.labels is not None
    assert train.labels.codes.tolist() == [9, 0, -1, -1, -1]
    assert train.labels.names == tuple("abcdefghij")
    # The files hold columns before rows.
    assert (train.decode(1).pixels.numpy() == labeled[1].transpose(0, 2, 1)).all()
    assert (train.decode(4).pixels.numpy() == unlabeled[2].transpose(0, 2, 1)).all()
    assert test is not None
    assert test.labels is not None
    assert test.labels.codes.tolist() == [1]


def test_imagenette_is_two_folders_of_classes(cache: Path) -> None:
    root = cache / "imagenette" / "imagenette2"
    for name in (
        "train/n01440764/a.JPEG",
        "train/n02102040/b.JPEG",
        "train/n02102040/c.JPEG",
        "val/n01440764/d.JPEG",
        "val/n02102040/e.JPEG",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), "red").save(root / name, "jpeg")
    data = open_data("imagenette", DataSettings())
    assert data.images.labels is not None
    assert data.images.labels.names == ("n01440764", "n02102040")
    assert data.images.labels.codes.tolist() == [0, 1, 1]
    assert data.images.decode(2).pixels.shape == (3, 10, 20)
    assert data.test is not None
    assert len(data.test) == 2


NOWHERE = "http://127.0.0.1:9/"


def _no_cifar(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets.CIFAR10, "url", NOWHERE + "cifar.tar.gz")


def _no_fashion(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets.FashionMNIST, "mirrors", [NOWHERE])


def _no_stl(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets.STL10, "url", NOWHERE + "stl.tar.gz")


def _no_imagenette(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets.Imagenette, "_ARCHIVES", {"full": (NOWHERE + "imagenette2.tgz", "")})


@pytest.mark.parametrize(
    ("name", "cut_off"), [("cifar10", _no_cifar), ("fashion-mnist", _no_fashion), ("stl10", _no_stl), ("imagenette", _no_imagenette)]
)
def test_without_a_network_the_error_is_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, cut_off: Callable[[pytest.MonkeyPatch], None]
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    cut_off(monkeypatch)
    with pytest.raises(DataError, match=f"cannot get the data set '{name}' into '{cache}'.*or use digits") as caught:
        open_data(name, DataSettings())
    assert "\n" not in str(caught.value)


def test_the_cache_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path
    monkeypatch.delenv("SELFCLUSTER_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert cache_folder() == tmp_path / "c" / "selfcluster"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "selfcluster"
