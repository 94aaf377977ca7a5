"""What DATA may be, and what is found in it."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.readers.parquet import ParquetImages
from selfcluster.data.readers.tar import TarImages
from selfcluster.data.sources import open_data
from selfcluster.data.splits import hold_out
from selfcluster.errors import DataError
from selfcluster.settings.config import DataSettings
from tests import packing
from tests.pictures import fill

SETTINGS = DataSettings()


def test_a_folder_says_what_it_holds(tmp_path: Path) -> None:
    fill(tmp_path / "my photos", "a.png", "sub/b.png")
    (tmp_path / "my photos" / "notes.txt").write_text("x")
    data = open_data(tmp_path / "my photos", SETTINGS)
    assert (data.name, data.where) == ("my photos", str((tmp_path / "my photos").resolve()))
    assert len(data.images) == 2
    assert data.test is None
    assert data.images.labels is None
    assert data.notes == (f"{tmp_path / 'my photos'}: 2 images; 1 other files skipped",)


def test_the_limit_of_size_reaches_the_images(tmp_path: Path) -> None:
    data = open_data(str(fill(tmp_path, "a.png")), DataSettings(max_megapixels=1e-5))
    with pytest.raises(DataError, match="over the limit"):
        data.images.decode(0)


@pytest.mark.parametrize(("folders", "test_folder"), [(("val",), "val"), (("test",), "test"), (("val", "test"), "val")])
def test_splits_are_found_and_noted(tmp_path: Path, folders: tuple[str, ...], test_folder: str) -> None:
    fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/dog/2.png")
    for folder in folders:
        fill(tmp_path, f"{folder}/cat/9.png", f"{folder}/dog/9.png")
    data = open_data(tmp_path, SETTINGS)
    assert data.test is not None
    assert [data.images.path(index) for index in range(3)] == ["cat/1.png", "dog/1.png", "dog/2.png"]
    assert isinstance(data.test, FolderImages)
    assert data.test.root == tmp_path / test_folder
    assert data.notes[0].startswith(
        f"found train/{test_folder} splits in {tmp_path}: training on train, keeping {test_folder} for evaluation"
    )
    assert data.test_where == str(tmp_path / test_folder)
    assert ("test/ is not used" in data.notes[0]) == (len(folders) == 2)
    assert data.notes[1:] == ("train: 3 images", f"{test_folder}: 2 images")


def test_train_alone_is_not_a_split(tmp_path: Path) -> None:
    data = open_data(fill(tmp_path, "train/1.png", "other/2.png"), SETTINGS)
    assert len(data.images) == 2
    assert data.test is None


def test_class_codes_of_val_are_those_of_train(tmp_path: Path) -> None:
    fill(tmp_path, "train/ant/1.png", "train/cat/1.png", "train/dog/1.png", "val/bee/1.png", "val/cat/1.png", "val/dog/1.png")
    data = open_data(tmp_path, SETTINGS)
    assert data.test is not None
    assert data.images.labels is not None
    assert data.test.labels is not None
    assert data.images.labels.names == ("ant", "cat", "dog")
    assert data.test.labels.names == ("ant", "cat", "dog", "bee")
    assert data.test.labels.codes.tolist() == [3, 1, 2]


def test_labels_none_applies_to_both_splits(tmp_path: Path) -> None:
    fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "val/dog/1.png")
    data = open_data(tmp_path, DataSettings(labels="none"))
    assert data.images.labels is None
    assert data.test is not None
    assert data.test.labels is None


def test_an_array_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    data = open_data(str(tmp_path / "x.npy"), SETTINGS)
    assert (data.name, data.where) == ("x", str((tmp_path / "x.npy").resolve()))
    assert isinstance(data.images, ArrayImages)
    assert isinstance(data.images.array, np.memmap)
    assert (data.images.take(np.arange(7)).numpy() == array.transpose(0, 3, 1, 2)).all()
    assert data.images.labels is None


@pytest.mark.parametrize("name", ["x.npz", "X.NPZ", "archive.npy"])
def test_an_archive_of_images_and_labels(tmp_path: Path, name: str) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 6, 5), dtype=np.uint8)
    with (tmp_path / name).open("wb") as file:
        np.savez(file, images=array, labels=np.array(["b", "a", "", "b"]), more=np.zeros(9))
    images = open_data(tmp_path / name, SETTINGS).images
    assert (images.decode(1).pixels[0].numpy() == array[1]).all()
    assert images.labels is not None
    assert images.labels.names == ("a", "b")
    assert images.labels.codes.tolist() == [1, 0, -1, 1]
    assert open_data(tmp_path / name, DataSettings(labels="none")).images.labels is None


def test_an_archive_of_one_array_and_of_unknown_ones(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", np.zeros((4, 6, 5), np.uint8))
    np.savez(tmp_path / "two.npz", x=np.zeros((4, 6, 5), np.uint8), y=np.zeros(4))
    np.save(tmp_path / "plain.npy", np.zeros((4, 6, 5), np.uint8))
    (tmp_path / "plain.npy").rename(tmp_path / "plain.npz")
    assert len(open_data(tmp_path / "one.npz", SETTINGS).images) == len(open_data(tmp_path / "plain.npz", SETTINGS).images) == 4
    with pytest.raises(DataError, match="contains 'x', 'y'; name the array of images 'images'"):
        open_data(tmp_path / "two.npz", SETTINGS)


def test_archives_that_cannot_be_read_are_one_line_errors(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 6, 5), dtype=np.uint8)
    np.savez(tmp_path / "objects.npz", images=images[:2], labels=np.array(["a", None], dtype=object))
    np.savez(tmp_path / "damaged.npz", images=images)
    content = bytearray((tmp_path / "damaged.npz").read_bytes())
    content[600] ^= 255
    (tmp_path / "damaged.npz").write_bytes(content)
    zipfile.ZipFile(tmp_path / "empty.npz", "w").close()
    np.savez(tmp_path / "short.npz", images=images, labels=np.zeros(3))
    for name, message in {"objects": "pickle", "damaged": "CRC", "empty": "contains nothing", "short": "3 labels for 40 images"}.items():
        with pytest.raises(DataError, match=message) as caught:
            open_data(tmp_path / f"{name}.npz", SETTINGS)
        assert "\n" not in str(caught.value)


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([np.zeros((4, 4)), None], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot read an array"):
        open_data(tmp_path / "x.npy", SETTINGS)


def test_arrays_in_memory(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 6, 5), dtype=np.uint8)
    for given in (array, torch.from_numpy(array), list(array)):
        data = open_data(given, SETTINGS)
        assert data.where == ""
        assert (data.images.decode(2).pixels[0].numpy() == array[2]).all()
    with pytest.raises(DataError, match="cannot make one array"):
        open_data([array[0], array[0, :2]], SETTINGS)
    with pytest.raises(DataError, match=r"float64.*astype\('uint8'\)"):
        open_data(array / 255, SETTINGS)


def test_labels_from_a_file_replace_the_folders(tmp_path: Path) -> None:
    fill(tmp_path / "data", "a/1.png", "b/2.png")
    (tmp_path / "y.csv").write_text("path,label\na/1.png,x\nb/2.png,x\n")
    images = open_data(tmp_path / "data", DataSettings(labels=str(tmp_path / "y.csv"))).images
    assert images.labels is not None
    assert images.labels.names == ("x",)
    np.save(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(DataError, match="3 labels for 2 images"):
        open_data(tmp_path / "data", DataSettings(labels=str(tmp_path / "y.npy")))


@pytest.mark.parametrize(
    ("given", "message"),
    [("digts", "did you mean 'digits'"), ("no/such/folder", "no file, folder or data set 'no/such/folder'; data sets: digits, ")],
)
def test_unknown_data_gets_the_nearest_name(given: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(given, SETTINGS)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"pass a folder, a \.tar, \.parquet, \.npy or \.npz file, or one of digits"):
        open_data(tmp_path / "x.csv", SETTINGS)


def test_a_single_image_is_refused_with_what_to_give_instead(tmp_path: Path) -> None:
    fill(tmp_path, "a.png")
    with pytest.raises(DataError, match=rf"is a single image; pass the folder that contains it, '{tmp_path}', or a list of files"):
        open_data(tmp_path / "a.png", SETTINGS)


def test_the_test_share_is_not_trained_on() -> None:
    array = np.zeros((40, 2, 2), np.uint8)
    data = open_data(array, SETTINGS)
    assert np.array_equal(data.trained_on(SETTINGS, 0), np.arange(40))
    assert np.array_equal(data.trained_on(DataSettings(test_share=0.25), 7), hold_out(data.images, 0.25, 7)[0])


# ---- packed images


def pack(root: Path, *names: str) -> Path:
    """Tars or parquet files of two classes, of six images each."""
    for name in names:
        pngs = packing.pngs(6, seed=len(name))
        if name.endswith(".tar"):
            packing.tar(root / name, {f"{'ab'[i % 2]}/{i}.png": content for i, content in enumerate(pngs)})
        else:
            packing.parquet(root / name, {"image": packing.structs(pngs), "label": ["a", "b"] * 3})
    return root


def test_a_tar_and_a_parquet_file_are_data(tmp_path: Path) -> None:
    pack(tmp_path, "x.tar", "y.parquet")
    tar, table = (open_data(tmp_path / name, SETTINGS) for name in ("x.tar", "y.parquet"))
    assert isinstance(tar.images, TarImages)
    assert isinstance(table.images, ParquetImages)
    assert (tar.name, tar.where) == ("x", str(tmp_path / "x.tar"))
    assert (table.name, table.where) == ("y", str(tmp_path / "y.parquet"))
    assert tar.notes == (f"{tmp_path / 'x.tar'}: 6 images in 1 tar file",)
    for images in (tar.images, table.images):
        assert images.labels is not None
        assert images.labels.names == ("a", "b")
        assert images.labels.codes.tolist() in ([0, 0, 0, 1, 1, 1], [0, 1] * 3)


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_folder_of_them_and_a_pattern_are_data(tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path / "many", f"x-0.{ending}", f"x-1.{ending}")
    (tmp_path / "many" / "README.md").write_text("x")
    folder = open_data(tmp_path / "many", SETTINGS)
    monkeypatch.chdir(tmp_path)
    pattern = open_data(f"many/x-{{0..1}}.{ending}", SETTINGS)
    assert (folder.name, folder.where) == ("many", str(tmp_path / "many"))
    assert (pattern.name, pattern.where) == ("many", str(tmp_path / "many" / f"x-{{0..1}}.{ending}"))
    assert len(folder.images) == len(pattern.images) == 12
    assert folder.images.digest() == pattern.images.digest()
    assert "12 images in" in pattern.notes[0]
    monkeypatch.chdir("/")
    assert open_data(pattern.where, SETTINGS).images.digest() == pattern.images.digest()


@pytest.mark.parametrize(
    ("names", "n_unused"),
    [
        (("train-0.tar", "train-1.tar", "val-0.tar"), 0),
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), 0),
        (("train.parquet", "validation.parquet", "test.parquet", "x.parquet"), 2),
    ],
)
def test_splits_among_packed_files_are_found_and_noted(tmp_path: Path, names: tuple[str, ...], n_unused: int) -> None:
    data = open_data(pack(tmp_path, *names), SETTINGS)
    assert data.test is not None
    assert len(data.images) == 6 * sum("train" in name for name in names)
    assert len(data.test) == 6
    assert all("train" in data.images.path(index) for index in range(len(data.images)))
    assert data.notes[0].startswith("found train/")
    assert data.test_where == ""
    assert (f"; {n_unused} other files are not used, such as" in data.notes[0]) == (n_unused > 0)
    assert data.notes[1].startswith(f"train: {len(data.images)} images in ")
    assert data.images.labels is not None
    assert data.test.labels is not None
    assert open_data(tmp_path, DataSettings(labels="none")).test.labels is None  # type: ignore[union-attr]


def test_folders_of_splits_may_contain_packed_files(tmp_path: Path) -> None:
    data = open_data(pack(tmp_path, "train/0.tar", "train/1.tar", "val/0.tar"), SETTINGS)
    assert data.test is not None
    assert (len(data.images), len(data.test)) == (12, 6)
    assert data.notes[1:] == ("train: 12 images in 2 tar files", "val: 6 images in 1 tar file")


def test_images_come_before_packed_files_which_are_skipped_and_noted(tmp_path: Path) -> None:
    data = open_data(pack(fill(tmp_path, "1.png"), "backup.tar"), SETTINGS)
    assert isinstance(data.images, FolderImages)
    assert data.notes == (
        f"{tmp_path}: 1 image; 1 other files skipped, among them 'backup.tar'; pass it as IMAGES to train on the images in it",
    )


def test_a_column_is_chosen_after_the_name(tmp_path: Path) -> None:
    pngs = packing.pngs(6)
    packing.parquet(tmp_path / "x.parquet", {"left": pngs, "right": pngs[::-1]})
    with pytest.raises(DataError, match=r"left, right; choose one, such as '.*x\.parquet#left'"):
        open_data(tmp_path / "x.parquet", SETTINGS)
    for given in (f"{tmp_path}/x.parquet#right", f"{tmp_path}#right", f"{tmp_path}/*.parquet#right"):
        data = open_data(given, SETTINGS)
        assert isinstance(data.images, ParquetImages)
        assert data.where == given
        assert data.images.encoded(0) == pngs[5]
    fill(tmp_path / "photos #1", "1.png")
    assert len(open_data(tmp_path / "photos #1", SETTINGS).images) == 1
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 4), np.uint8))
    for given in (f"{tmp_path}/photos #1#left", f"{tmp_path}/x.npy#left"):
        with pytest.raises(DataError, match=r"#left names a column of parquet files, but .* is not parquet; leave it out"):
            open_data(given, SETTINGS)


@pytest.mark.parametrize("given", ["x.tar.gz", ".", "x.tar.*"])
def test_compressed_tars_are_refused(tmp_path: Path, given: str) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(packing.tar(tmp_path / "x.tar", {"a.png": b""}).read_bytes()))
    (tmp_path / "x.tar").unlink()
    with pytest.raises(DataError, match=r"x\.tar\.gz' is compressed \(gzip\).*unpack it"):
        open_data(tmp_path / given, SETTINGS)


def test_a_link_to_a_file_without_a_suffix_is_kept(tmp_path: Path) -> None:
    pack(tmp_path, "x.parquet").joinpath("x.parquet").rename(tmp_path / "f00d")
    (tmp_path / "x.parquet").symlink_to(tmp_path / "f00d")
    where = open_data(tmp_path / "x.parquet", SETTINGS).where
    assert len(open_data(where, SETTINGS).images) == 6


def test_labels_by_path_and_the_limit_of_size_reach_packed_images(tmp_path: Path) -> None:
    pack(tmp_path, "x.tar", "x.parquet")
    (tmp_path / "y.csv").write_text("x.tar/a/0.png,p\nx.tar/b/1.png,q\nx.parquet/0,p\nx.parquet/1,q\n")
    for name in ("x.tar", "x.parquet"):
        data = open_data(tmp_path / name, DataSettings(labels=str(tmp_path / "y.csv"), max_megapixels=1e-5))
        assert data.images.labels is not None
        assert sorted(data.images.labels.codes.tolist()) == [-1, -1, -1, -1, 0, 1]
        with pytest.raises(DataError, match="over the limit"):
            data.images.decode(0)


@pytest.mark.parametrize(
    ("place", "value"), [(10, 99), (8, 1), (8, 32), (8, 64)], ids=["compression", "encrypted", "patched", "strongly encrypted"]
)
def test_an_archive_that_cannot_be_unpacked_is_refused(tmp_path: Path, place: int, value: int) -> None:
    """Found by mutating files: zipfile raises other errors than for a damaged archive."""
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 8, 8), np.uint8))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    for header, offset in ((b"PK\x01\x02", place), (b"PK\x03\x04", place - 2)):
        content[content.index(header) + offset] |= value
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*x\.npz"):
        open_data(str(tmp_path / "x.npz"), DataSettings())
