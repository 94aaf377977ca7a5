"""Which files of a folder are images, and in which order."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

from selfcluster.data.readers.folder import FolderImages, ListedImages
from selfcluster.errors import DataError
from tests.pictures import fill, paths, png


def test_paths_are_sorted_bytewise_whatever_the_depth(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a.png", "a b/c.png", "a/x/y.png", "B.png", "é.png", "a-b/c.png", "10.png", "9.png"]
    images = FolderImages(fill(tmp_path, *names))
    assert [os.fsencode(path) for path in paths(images)] == sorted(os.fsencode(name) for name in names)


def test_hidden_files_are_skipped_and_other_kinds_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.JPG", "c.TiFf", ".hidden.png", ".git/x.png", "notes.txt", "sub/Thumbs.db", "sub/noending")
    images = FolderImages(tmp_path)
    assert paths(images) == ["a.png", "b.JPG", "c.TiFf"]
    assert images.n_skipped == 3


def test_a_run_folder_inside_the_data_is_never_scanned(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "runs/1/config.toml", "runs/1/environment.json", "runs/1/report/plot.png")
    fill(tmp_path, "settings/config.toml", "settings/b.png")
    assert paths(FolderImages(tmp_path)) == ["a.png", "settings/b.png"]


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    fill(tmp_path, "data/m/a.png", "elsewhere/b.png")
    root = tmp_path / "data"
    (root / "m" / "loop").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    (root / "self.png").symlink_to(root / "self.png")
    (root / "far").symlink_to(tmp_path / "elsewhere")
    images = FolderImages(root)
    assert paths(images) == ["far/b.png", "m/a.png", "self.png"]
    with pytest.raises(DataError):
        images.decode(2)


@pytest.mark.parametrize("made_first", ["real", "link"])
def test_of_two_paths_to_a_folder_the_first_in_order_is_used(tmp_path: Path, made_first: str) -> None:
    fill(tmp_path, "elsewhere/a.png")
    root = tmp_path / "data"
    root.mkdir()
    for name in ("k", "b", "z", "q") if made_first == "real" else ("z", "q", "k", "b"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    assert paths(FolderImages(root)) == ["b/a.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_not_utf8_are_read_and_classed(tmp_path: Path) -> None:
    for name in (b"d\xff/\xfe 1.png", b"e/\xe9\n.png"):
        file = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as out:
            out.write(png())
    images = FolderImages(tmp_path)
    assert [os.fsencode(path) for path in paths(images)] == [b"d\xff/\xfe 1.png", b"e/\xe9\n.png"]
    assert images.labels is not None
    assert [os.fsencode(name) for name in images.labels.names] == [b"d\xff", b"e"]
    assert images.decode(0).pixels.shape == images.decode(1).pixels.shape == (3, 4, 5)
    assert len(images.digest()) == 64


def test_names_with_spaces_and_other_alphabets(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "awkward" / "unicode_names.tar") as archive:
        archive.extractall(tmp_path, filter="data")
        members = [member.name for member in archive.getmembers() if member.isfile()]
    images = FolderImages(tmp_path)
    assert len(images) == 4
    assert sorted(paths(images)) == sorted(members)
    assert all(images.decode(index).pixels.float().std() > 10 for index in range(4))


def test_no_folder_and_no_images_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        FolderImages(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no images found .* \.png") as caught:
        FolderImages(fill(tmp_path, "a.txt", ".b.png"))
    assert "\n" not in str(caught.value)


def test_the_digest_follows_names_and_nothing_else(tmp_path: Path) -> None:
    first = FolderImages(fill(tmp_path, "a.png", "b.png")).digest()
    fill(tmp_path, "a.png", content=png(color=(1, 2, 3)))
    assert FolderImages(tmp_path).digest() == first
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    renamed = FolderImages(tmp_path).digest()
    fill(tmp_path, "d.png")
    assert len({first, renamed, FolderImages(tmp_path).digest()}) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes here")
def test_pipes_and_devices_are_no_images_and_are_never_opened(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "c.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    images = FolderImages(tmp_path)
    assert paths(images) == ["a.png", "c.png", "gone.jpg"]
    assert images.n_skipped == 4
    with pytest.raises(DataError, match="no longer exists"):
        images.decode(2)
    (tmp_path / "a.png").unlink()
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="is not a regular file"):
        images.decode(0)
    with pytest.raises(DataError, match="is not a regular file"):
        ListedImages([tmp_path / "pipe.jpg"]).decode(0)
