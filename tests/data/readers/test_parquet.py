"""Images in parquet: which column, which classes, and that a group of rows is read once."""

from __future__ import annotations

import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
from selfcluster.data.readers.parquet import ParquetImages, Unpacked
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
    assert images.contents().startswith("12 images in column 'image' of 2 parquet files; they are unpacked into '")


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


def test_without_room_the_last_two_groups_are_kept_and_it_is_said(tmp_path: Path, reads: CountedReads) -> None:
    images = opened(tmp_path, n_copies=10**15)
    assert images.unpacked is None
    assert [images.encoded(index) for index in (0, 4, 1, 5, 2, 3, 6, 9, 0)] == [PNGS[i] for i in (0, 4, 1, 5, 2, 3, 6, 9, 0)]
    assert reads.groups == [0, 1, 2, 3, 0]
    assert "no room to unpack" in images.contents()
    assert f"in {tempfile.gettempdir()!r}, so that each image costs reading its group of rows" in images.contents()
    assert "set TMPDIR" in images.contents()


def test_how_much_room_there_has_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_bytes = opened(tmp_path).n_bytes
    assert sum(map(len, PNGS)) < n_bytes < 2 * sum(map(len, PNGS)), "and what parquet keeps beside them"
    for share, has_room in ((1.05, False), (1.2, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=share * n_bytes: SimpleNamespace(free=free))
        assert (opened(tmp_path).unpacked is not None) == has_room
        assert opened(tmp_path, n_copies=2).unpacked is None


# ---- which column


def struct_like(name: str) -> dict[str, Any]:
    return {name: packing.structs(PNGS)}


@pytest.mark.parametrize(
    ("columns", "features", "given", "expected"),
    [
        ({**struct_like("img"), **struct_like("thumbnail")}, None, "", "img"),
        ({**struct_like("a"), "b": range(12), "c": ["x"] * 12}, None, "", "a"),
        ({**struct_like("a"), **struct_like("image")}, None, "a", "a"),
        ({**struct_like("sound"), "photo": PNGS}, {"sound": {"_type": "Audio"}, "photo": {"_type": "Image"}}, "", "photo"),
        ({"x.y": PNGS, "x": range(12)}, None, "", "x.y"),
    ],
)
def test_the_column_of_images(tmp_path: Path, columns: dict[str, Any], features: Any, given: str, expected: str) -> None:
    packing.parquet(tmp_path / "x.parquet", columns, features=features)
    images = ParquetImages(tmp_path, ["x.parquet"], column=given)
    assert images.column == expected
    assert images.decode(3).pixels.shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        ({**struct_like("a"), **struct_like("b")}, "", r"several columns that can hold images, a, b; choose one, as in '.*x\.parquet#a'"),
        ({**struct_like("a"), "n": range(12)}, "n", r"no column 'n' of images; those that can hold images are a"),
        ({"n": range(12), "text": ["x"] * 12}, "", r"holds no images; none of its columns \(n, text\) is of bytes"),
        ({"n": range(12)}, "a", r"no column 'a' of images; none of its columns \(n\)"),
        ({"image": pa.array([], pa.binary())}, "", "no images found.*column 'image' has no rows"),
    ],
)
def test_columns_that_cannot_be_are_one_line_errors(tmp_path: Path, columns: dict[str, Any], given: str, message: str) -> None:
    packing.parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(DataError, match=message) as caught:
        ParquetImages(tmp_path, ["x.parquet"], column=given)
    assert "\n" not in str(caught.value)


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS})
    packing.parquet(tmp_path / "y.parquet", struct_like("photo"))
    with pytest.raises(DataError, match=r"y\.parquet' has no column 'image' like that of 'x\.parquet'"):
        ParquetImages(tmp_path, ["x.parquet", "y.parquet"])


# ---- classes


def test_class_names_come_from_hugging_faces_metadata(tmp_path: Path) -> None:
    labels = opened(tmp_path).labels
    assert labels is not None
    assert labels.names == ("cat", "dog", "owl")
    assert labels.codes.tolist() == [i % 4 - 1 for i in range(12)]


@pytest.mark.parametrize(
    ("label", "names", "codes"),
    [
        (pa.array([10, 9, None, -1] * 3, pa.int8()), ("9", "10"), [1, 0, -1, -1] * 3),
        (pa.array(["b", "a", None, ""] * 3), ("a", "b"), [1, 0, -1, -1] * 3),
        (pa.array(["10", "9", None, "-1"] * 3, pa.large_string()), ("9", "10"), [1, 0, -1, -1] * 3),
        (pa.array(["b", "a", None, "b"] * 3).dictionary_encode(), ("a", "b"), [1, 0, -1, 1] * 3),
        (pa.array([True, False, None, True] * 3), ("false", "true"), [1, 0, -1, 1] * 3),
    ],
)
def test_labels_of_many_kinds(tmp_path: Path, label: pa.Array, names: tuple[str, ...], codes: list[int]) -> None:
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS, "label": label})
    labels = ParquetImages(tmp_path, ["x.parquet"]).labels
    assert labels is not None
    assert labels.names == names
    assert labels.codes.tolist() == codes


def test_which_column_is_the_class(tmp_path: Path) -> None:
    def names(features: Any = None, **columns: Any) -> tuple[str, ...] | None:
        packing.parquet(tmp_path / "x.parquet", {"image": PNGS, **columns}, features=features)
        labels = ParquetImages(tmp_path, ["x.parquet"]).labels
        return None if labels is None else labels.names

    numbers = [0, 1] * 6
    assert names(coarse_label=numbers, fine_label=["a", "b"] * 6) == ("a", "b")
    assert names(species=numbers) is None
    assert names({"species": {"_type": "ClassLabel", "names": ["ant", "bee"]}}, species=numbers, other=numbers) == ("ant", "bee")
    assert names({name: {"_type": "ClassLabel", "names": ["ant", "bee"]} for name in ("p", "q")}, p=numbers, q=numbers) is None
    assert names({"label": {"_type": "ClassLabel", "names": ["ant"]}}, label=numbers) == ("0", "1"), "more classes than names"
    assert names({"label": {"_type": "ClassLabel", "names": ["ant", "bee"]}}, label=["p", "q"] * 6) == ("p", "q")
    assert names(label=[0.5] * 12) is None
    assert names(label=[[1, 2]] * 12) is None


def test_files_without_the_classes_of_the_first_are_data_without_labels(tmp_path: Path) -> None:
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS, "label": [0, 1] * 6})
    packing.parquet(tmp_path / "y.parquet", {"image": PNGS})
    assert ParquetImages(tmp_path, ["x.parquet", "y.parquet"]).labels is None
    packing.parquet(tmp_path / "y.parquet", {"image": PNGS, "label": [[0], [1]] * 6})
    with pytest.raises(DataError, match=r"cannot read column 'label' of '.*y\.parquet'"):
        ParquetImages(tmp_path, ["x.parquet", "y.parquet"])


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


def test_a_file_that_goes_away_breaks_its_images(tmp_path: Path) -> None:
    images = opened(tmp_path)
    (tmp_path / "x-1.parquet").unlink()
    assert images.encoded(0) == PNGS[0]
    with pytest.raises(DataError, match="its group of rows cannot be read"):
        images.encoded(6)


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + bytes(50) + b"PAR1"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
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


RNG = np.random.default_rng(0)


ROWS: list[bytes | None] = [None if n % 7 == 3 else RNG.bytes(n % 11 * 100) for n in range(60)]


def parts(rows: list[bytes | None], size: int = 4) -> Iterator[pa.Array]:
    for first in range(0, len(rows), size):
        # A slice of a longer array, so that nothing begins at its buffers' beginning.
        yield pa.array([b"before", None, *rows[first : first + size], b"behind"], pa.large_binary())[2:-1]


def test_rows_come_back_in_any_order() -> None:
    unpacked = Unpacked(60)
    for first in (40, 0, 20):
        assert not unpacked.has(first + 5)
        unpacked.add(first, parts(ROWS[first : first + 20]))
        assert unpacked.has(first + 5)
    for row in RNG.permutation(60).tolist():
        assert unpacked.get(row) == ROWS[row]


def test_rows_of_no_bytes_and_a_part_without_any() -> None:
    unpacked = Unpacked(4)
    unpacked.add(0, [pa.array([None, None], pa.large_binary()), pa.array([b"", b""], pa.large_binary())])
    assert [unpacked.get(row) for row in range(4)] == [None, None, b"", b""]
    assert all(unpacked.has(row) for row in range(4))


def test_what_goes_wrong_in_the_middle_adds_nothing() -> None:
    unpacked = Unpacked(60)
    unpacked.add(0, parts(ROWS[:20]))

    def broken() -> Iterator[pa.Array]:
        yield from parts(ROWS[20:28])
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        unpacked.add(20, broken())
    assert not unpacked.has(20)
    unpacked.add(40, parts(ROWS[40:]))
    assert [unpacked.get(row) for row in (*range(20), *range(40, 60))] == ROWS[:20] + ROWS[40:]


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of size")
def test_a_full_disk_adds_nothing() -> None:
    unpacked = Unpacked(3)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            unpacked.add(0, [pa.array([bytes(50_000)], pa.large_binary())])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not unpacked.has(0)
    unpacked.add(0, [pa.array([b"a", b"b"], pa.large_binary())])
    assert unpacked.get(1) == b"b"


def _adds(unpacked: Unpacked) -> None:
    unpacked.add(20, parts(ROWS[20:40]))
    sys.exit(0 if unpacked.get(3) == ROWS[3] else 1)


def test_what_one_process_adds_another_reads() -> None:
    unpacked = Unpacked(60)
    unpacked.add(0, parts(ROWS[:20]))
    worker = multiprocessing.Process(target=_adds, args=(unpacked,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert unpacked.path.exists(), "the worker has not taken the file with it"
    unpacked.add(40, parts(ROWS[40:]))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(unpacked.get, range(60))) == ROWS


def test_the_file_goes_with_its_owner() -> None:
    unpacked = Unpacked(3)
    path = unpacked.path
    assert path.stat().st_size == 56
    del unpacked
    assert not path.exists()
    script = "from selfcluster.data.readers.parquet import Unpacked; kept = Unpacked(3); print(kept.path)"
    left = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert left.endswith(".unpacked")
    assert not Path(left).exists()
