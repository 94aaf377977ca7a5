"""Labels from CSV and .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selfcluster.data.label_files import set_labels
from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import ArrayImages
from selfcluster.errors import DataError
from tests.pictures import fill


def test_labels_from_a_csv_file(tmp_path: Path) -> None:
    images = FolderImages(fill(tmp_path / "data", "a/1.png", "b/2.png", "b/3 x.png", "b/4.png"))
    file = tmp_path / "labels.csv"
    file.write_text('\ufeffpath,label\nb/2.png,dog\n"b/3 x.png", cat \na/1.png,dog,more\nunknown.png,owl\n\nb/4.png,-1\n', encoding="utf-8")
    set_labels(images, str(file))
    assert images.labels is not None
    assert images.labels.names == ("cat", "dog")
    assert images.labels.codes.tolist() == [1, 1, 0, -1]


def test_paths_may_be_absolute_or_begin_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = FolderImages(fill(Path("data"), "a/1.png", "b/2.png", "b/3.png"))
    (tmp_path / "labels.csv").write_text(f"path,label\n{tmp_path / 'data' / 'a' / '1.png'},cat\ndata/b/2.png,dog\nb/3.png,owl\n")
    set_labels(images, "labels.csv")
    assert images.labels is not None
    assert [images.labels.names[code] for code in images.labels.codes] == ["cat", "dog", "owl"]


def test_labels_from_an_array_file_and_for_the_rows_of_an_array(tmp_path: Path) -> None:
    images = ArrayImages(np.zeros((3, 4, 4), np.uint8))
    np.save(tmp_path / "y.npy", np.array([5, -1, 2], np.int16))
    set_labels(images, str(tmp_path / "y.npy"))
    assert images.labels is not None
    assert images.labels.codes.tolist() == [1, -1, 0]
    (tmp_path / "y.csv").write_text("2,x\n0,y\n")
    set_labels(images, str(tmp_path / "y.csv"))
    assert images.labels.codes.tolist() == [1, -1, 0]
    assert images.labels.names == ("x", "y")
    set_labels(images, "auto")
    assert images.labels is not None
    set_labels(images, "none")
    assert images.labels is None


def test_label_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images = ArrayImages(np.zeros((3, 4, 4), np.uint8))
    np.save(tmp_path / "short.npy", np.zeros(2, np.int64))
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, y=np.zeros(3))
    (tmp_path / "other.csv").write_text("path,label\ncat.png,cat\n")
    (tmp_path / "latin.csv").write_bytes(b"0,caf\xe9\n")
    for name, message in {
        "short.npy": "2 labels for 3 images",
        "archive.npy": "archive",
        "gone.npy": "cannot read",
        "gone.csv": "cannot read labels",
        "latin.csv": "cannot read labels",
        "other.csv": "no path in .* matches an image; the first image is '0'",
        "labels.txt": "must be auto, none",
    }.items():
        with pytest.raises(DataError, match=message):
            set_labels(images, str(tmp_path / name))
