"""Images in parquet: the same as in a folder, and each group of rows is read once."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.parquet import ParquetImages
from selfcluster.data.readers.unpacked import RecentGroups, UnpackedGroups
from selfcluster.errors import DataError
from tests import packing

PNGS = packing.pngs(12)
CLASSES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}}


def opened(root: Path, **how: Any) -> ParquetImages:
    """Twelve images in two files of groups of three rows, as Hugging Face keeps them."""
    label = pa.array([i % 4 - 1 for i in range(12)])
    for place in range(2):
        rows = slice(6 * place, 6 * place + 6)
        columns = {"image": packing.structs(PNGS[rows]), "label": label[rows]}
        packing.parquet(root / f"x-{place}.parquet", columns, group=3, features=CLASSES)
    return ParquetImages(root, ["x-0.parquet", "x-1.parquet"], **how)


class CountedReads:
    """How often each group of rows is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        read = ParquetImages._read

        def counted(images: ParquetImages, group: int) -> Any:
            self.groups.append(group)
            return read(images, group)

        monkeypatch.setattr(ParquetImages, "_read", counted)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> CountedReads:
    return CountedReads(monkeypatch)


def test_images_are_those_of_a_folder(tmp_path: Path) -> None:
    images = opened(tmp_path / "tables")
    for i, content in enumerate(PNGS):
        (tmp_path / f"{i:06}.png").write_bytes(content)
    folder = FolderImages(tmp_path)
    assert len(images) == 12
    for index in (7, 0, 11, 6, 5, 1, 2, 3, 4, 8, 9, 10):
        assert torch.equal(images.decode(index).pixels, folder.decode(index).pixels)
        assert images.decoded_size(index) == (20, 20)
        assert images.path(index) == f"x-{index // 6}.parquet/{index % 6}"
    assert images.paths() == pa.array([images.path(index) for index in range(12)], type=pa.large_string())
    assert images.contents().startswith("12 images in column 'image' of 2 parquet files; unpacked into '")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_plain_columns_of_bytes_whatever_their_compression(tmp_path: Path, kind: pa.DataType, compression: str) -> None:
    packing.parquet(tmp_path / "x.parquet", {"photo": pa.array([*PNGS, PNGS[0]], kind)}, compression=compression)
    images = ParquetImages(tmp_path, ["x.parquet"])
    assert [images.encoded(index) for index in range(13)] == [*PNGS, PNGS[0]]
    assert images.labels is None


def test_each_group_is_read_once_whatever_the_order(tmp_path: Path, reads: CountedReads) -> None:
    images = opened(tmp_path)
    for index in np.random.default_rng(0).integers(0, 12, 200).tolist():
        assert images.encoded(index) == PNGS[index]
    assert sorted(reads.groups) == [0, 1, 2, 3]


def test_threads_read_each_group_once(tmp_path: Path, reads: CountedReads) -> None:
    images, order = opened(tmp_path), np.random.default_rng(0).integers(0, 12, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.encoded, order)) == [PNGS[index] for index in order]
    assert sorted(reads.groups) == [0, 1, 2, 3]


def _reads(images: ParquetImages) -> None:
    sys.exit(0 if [images.encoded(i) for i in (11, 0, 5)] == [PNGS[i] for i in (11, 0, 5)] else 1)


@pytest.mark.parametrize(("start", "has_room"), [("fork", True), ("fork", False), ("spawn", True)])
def test_other_processes_read_the_same_and_add_to_it(
    tmp_path: Path, start: str, has_room: bool, reads: CountedReads, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context(start)
    monkeypatch.setattr(multiprocessing, "Lock", context.Lock)  # as where this is the system's way to start
    images = opened(tmp_path, n_copies=1 if has_room else 10**15)
    assert images.encoded(3) == PNGS[3]
    worker = context.Process(target=_reads, args=(images,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert [images.encoded(index) for index in range(12)] == PNGS
    # Groups 0 and 3 were read by the worker.
    assert sorted(reads.groups) == ([1, 2] if has_room else [0, 1, 2, 3])


def test_without_room_the_last_two_groups_are_kept_and_it_is_noted(tmp_path: Path, reads: CountedReads) -> None:
    images = opened(tmp_path, n_copies=10**15)
    assert isinstance(images.store, RecentGroups)
    assert [images.encoded(index) for index in (0, 4, 1, 5, 2, 3, 6, 9, 0)] == [PNGS[i] for i in (0, 4, 1, 5, 2, 3, 6, 9, 0)]
    assert reads.groups == [0, 1, 2, 3, 0]
    assert "no room to unpack" in images.contents()
    assert f"in {tempfile.gettempdir()!r}, so reading an image means reading its group of rows" in images.contents()
    assert "set TMPDIR" in images.contents()


def test_room_for_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = opened(tmp_path).n_bytes
    assert sum(map(len, PNGS)) < n_bytes < 2 * sum(map(len, PNGS)), "and what parquet keeps beside them"
    for share, has_room in ((1.05, False), (1.2, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=share * n_bytes: SimpleNamespace(free=free))
        assert isinstance(opened(tmp_path).store, UnpackedGroups) == has_room
        assert isinstance(opened(tmp_path, n_copies=2).store, RecentGroups)


# ---- what is broken


def test_bad_bytes_are_broken_images_and_no_others(tmp_path: Path) -> None:
    contents: list[bytes | None] = [PNGS[0], None, b"", b"no image", PNGS[4], PNGS[5][:200]]
    packing.parquet(tmp_path / "x.parquet", {"image": packing.structs(contents)}, group=3)
    images = ParquetImages(tmp_path, ["x.parquet"])
    for index, reason in {1: "has no bytes", 2: "is empty", 3: "is not an image", 5: "truncated"}.items():
        with pytest.raises(DataError, match=reason):
            images.decode(index)
    for index in (0, 4):
        assert images.decode(index).pixels.shape == (3, 20, 20)


def test_a_group_with_fewer_rows_than_the_footer_says_breaks_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by mutating files."""
    images = opened(tmp_path)
    monkeypatch.setattr(images, "_read", lambda group: iter([pa.array(PNGS[:1], pa.large_binary())]))
    assert images.encoded(0) == PNGS[0]
    with pytest.raises(DataError, match="its group of rows has 1, fewer than the file says"):
        images.encoded(1)


def test_a_damaged_group_breaks_its_own_images(tmp_path: Path) -> None:
    path = packing.parquet(tmp_path / "x.parquet", {"image": PNGS}, group=3, use_dictionary=False)
    chunk = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    path.write_bytes(content)
    images = ParquetImages(tmp_path, ["x.parquet"])
    for _ in range(2):
        with pytest.raises(DataError, match="its group of rows cannot be read") as caught:
            images.decode(4)
        assert "\n" not in str(caught.value)
    assert images.encoded(2) == PNGS[2]
    assert images.encoded(6) == PNGS[6]


def test_a_deleted_file_breaks_its_images(tmp_path: Path) -> None:
    images = opened(tmp_path)
    (tmp_path / "x-1.parquet").unlink()
    assert images.encoded(0) == PNGS[0]
    with pytest.raises(DataError, match="its group of rows cannot be read"):
        images.encoded(6)


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + bytes(50) + b"PAR1"])
def test_files_that_are_not_parquet_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read '.*x\.parquet'") as caught:
        ParquetImages(tmp_path, ["x.parquet"])
    assert "\n" not in str(caught.value)


def test_the_digest_follows_files_rows_and_sizes(tmp_path: Path) -> None:
    def digest(contents: list[bytes], name: str = "x.parquet") -> str:
        packing.parquet(tmp_path / name, {"image": contents})
        return ParquetImages(tmp_path, [name]).digest()

    first = digest(PNGS)
    assert digest(PNGS) == first
    assert len({first, digest(PNGS[:-1]), digest(PNGS, "y.parquet"), digest([*PNGS[:-1], PNGS[-1] + b"x"])}) == 4


def test_the_limit_of_size_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="declares 20 x 20 pixels"):
        opened(tmp_path, max_megapixels=1e-5).decode(0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_file_name_that_arrow_cannot_take_is_refused(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff x.parquet")
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS})
    (tmp_path / "x.parquet").rename(tmp_path / name)
    with pytest.raises(DataError, match=r"cannot read '.*udcff x\.parquet'"):
        ParquetImages(tmp_path, [name])
