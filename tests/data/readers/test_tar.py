"""Images in tar shards: the same as in a folder, in the same order, in any thread or process."""

from __future__ import annotations

import gzip
import multiprocessing
import os
import pickle
import re
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.tar import TarImages
from selfcluster.errors import DataError
from tests import packing

PNGS = packing.pngs(12)


def shards(root: Path) -> TarImages:
    """Twelve images in three tars, each with a class."""
    for shard in range(3):
        members = []
        for i in range(4 * shard, 4 * shard + 4):
            members += [(f"{i:06}.png", PNGS[i]), (f"{i:06}.cls", f"{i % 3 + 8}".encode()), (f"{i:06}.json", b"{}")]
        packing.tar(root / f"x-{shard:06}.tar", members)
    return TarImages(root, [f"x-{shard:06}.tar" for shard in range(3)])


def test_images_are_those_of_a_folder(tmp_path: Path) -> None:
    images = shards(tmp_path / "tars")
    for i, content in enumerate(PNGS):
        (tmp_path / f"{i:06}.png").write_bytes(content)
    folder = FolderImages(tmp_path)
    assert len(images) == 12
    for index in range(12):
        assert torch.equal(images.decode(index).pixels, folder.decode(index).pixels)
        assert images.encoded(index) == PNGS[index]
        assert images.decoded_size(index) == (20, 20)
        assert images.path(index) == f"x-{index // 4:06}.tar/{index:06}.png"
    assert images.paths() == pa.array([images.path(index) for index in range(12)], type=pa.large_string())
    assert images.contents() == "12 images in 3 tar files; 12 other files skipped"


def test_the_order_is_bytewise_whatever_the_order_in_the_tars(tmp_path: Path) -> None:
    names = ["b.png", "a/z.png", "a.png", "a b/c.png", "é.png", "B.PNG", "10.png", "9.png"]
    for shard in ("2.tar", "10.tar", "sub/1.tar"):
        packing.tar(tmp_path / shard, {name: PNGS[place] for place, name in enumerate(names)})
    images = TarImages(tmp_path, ["sub/1.tar", "2.tar", "10.tar"])
    found = [images.path(index) for index in range(len(images))]
    assert [os.fsencode(path) for path in found] == sorted(
        os.fsencode(f"{shard}/{name}") for shard in ("2.tar", "10.tar", "sub/1.tar") for name in names
    )
    for index, path in enumerate(found):
        assert images.encoded(index) == PNGS[names.index(path.split(".tar/")[1])]


def test_classes_from_members(tmp_path: Path) -> None:
    labels = shards(tmp_path).labels
    assert labels is not None
    assert labels.names == ("8", "9", "10")
    assert labels.codes.tolist() == [i % 3 for i in range(12)]


def test_class_names_and_samples_without_one(tmp_path: Path) -> None:
    members = {
        "1.cls": b" cat\n",
        "1.png": PNGS[0],
        "2.png": PNGS[1],
        "sub/1.png": PNGS[2],
        "sub/1.cls": "k\u00e4fer".encode(),
        "3.left.png": PNGS[3],
        "3.right.png": PNGS[4],
        "3.cls": b"cat",
        "v1.2.png": PNGS[5],
        "v1.2.cls": b"owl",
    }
    packing.tar(tmp_path / "x.tar", members)
    packing.tar(tmp_path / "y.tar", {"1.png": PNGS[6]})
    images = TarImages(tmp_path, ["x.tar", "y.tar"])
    assert images.labels is not None
    of = {images.path(i): (*images.labels.names, None)[code] for i, code in enumerate(images.labels.codes)}
    assert of == {
        "x.tar/1.png": "cat",
        "x.tar/2.png": None,
        "x.tar/3.left.png": "cat",
        "x.tar/3.right.png": "cat",
        "x.tar/sub/1.png": "käfer",
        "x.tar/v1.2.png": "owl",
        "y.tar/1.png": None,
    }


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["./cat/1.png", "./dog/1.png", "./cat/2.png"], ("cat", "dog")),
        (["cat/1.png", "cat/2.png"], None),
        (["cat/1.png", "1.png"], None),
        (["cat/a/1.png", "dog/a/1.png"], None),
    ],
)
def test_folders_in_the_tar_are_classes_as_in_a_folder(tmp_path: Path, names: list[str], classes: tuple[str, ...] | None) -> None:
    packing.tar(tmp_path / "x.tar", dict(zip(names, PNGS, strict=False)))
    labels = TarImages(tmp_path, ["x.tar"]).labels
    assert labels is None if classes is None else labels is not None and labels.names == classes and labels.codes.tolist() == [0, 0, 1]


def test_hidden_members_are_skipped(tmp_path: Path) -> None:
    packing.tar(tmp_path / "x.tar", {"./a.png": PNGS[0], "./._a.png": b"x", "__MACOSX/._b.png": b"x", ".git/c.png": b"x", "../d.png": b"x"})
    images = TarImages(tmp_path, ["x.tar"])
    assert [images.path(index) for index in range(len(images))] == ["x.tar/a.png"]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    names = [b"d\xff/\xfe 1.png", b"e/\xe9\n.png"]
    packing.tar(tmp_path / "x.tar", {os.fsdecode(name): PNGS[0] for name in names}, tarfile.GNU_FORMAT)
    images = TarImages(tmp_path, ["x.tar"])
    assert [os.fsencode(images.path(index)) for index in range(2)] == [b"x.tar/" + name for name in names]
    assert images.paths()[0].as_py() == "x.tar/d\\xff/\\xfe 1.png"
    assert images.labels is not None
    assert images.decode(1).pixels.shape == (3, 20, 20)


def test_odd_names_of_the_development_data(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "awkward" / "unicode_names.tar"
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    images, folder = TarImages(source.parent, [source.name]), FolderImages(tmp_path)
    assert len(images) == len(folder) == 4
    for index in range(4):
        assert images.path(index) == f"unicode_names.tar/{folder.path(index)}"
        assert torch.equal(images.decode(index).pixels, folder.decode(index).pixels)


def test_awkward_files_decode_or_are_refused_as_in_a_folder(shared_data: Path, tmp_path: Path) -> None:
    folder = FolderImages(shared_data / "awkward")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(shared_data / "awkward", "")
    images = TarImages(tmp_path, ["x.tar"])
    assert [images.path(index) for index in range(18)] == [f"x.tar/{folder.path(index)}" for index in range(len(folder))]
    n_refused = 0
    for index in range(18):
        try:
            expected = folder.decode(index, lambda *_: 0.3)
        except DataError as error:
            n_refused += 1
            with pytest.raises(DataError, match=re.escape(str(error))):
                images.decode(index)
        else:
            given = images.decode(index, lambda *_: 0.3)
            assert given.size == expected.size
            assert torch.equal(given.pixels, expected.pixels)
            assert images.decoded_size(index, lambda *_: 0.3) == folder.decoded_size(index, lambda *_: 0.3)
    assert n_refused == 4


def test_the_digest_follows_names_and_not_the_order_in_the_tar(tmp_path: Path) -> None:
    def digest(*names: str, shard: str = "x.tar") -> str:
        packing.tar(tmp_path / shard, {name: PNGS[0] for name in names})
        return TarImages(tmp_path, [shard]).digest()

    first = digest("a.png", "b.png")
    assert digest("b.png", "a.png") == first
    assert len({first, digest("a.png", "c.png"), digest("a.png", "b.png", "c.png"), digest("a.png", "b.png", shard="y.tar")}) == 4


# ---- what is refused


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    packing.tar(tmp_path / "x.tar", [("a.png", PNGS[0]), ("b.png", PNGS[1]), ("./b.png", PNGS[2])])
    with pytest.raises(DataError, match=r"two members are named 'x.tar/b.png'; rename one of them"):
        TarImages(tmp_path, ["x.tar"])


def test_tars_without_images_are_refused(tmp_path: Path) -> None:
    packing.tar(tmp_path / "x.tar", {"a.txt": b"x", "a.cls": b"1"})
    packing.tar(tmp_path / "y.tar", {})
    with pytest.raises(DataError, match=r"no images found in '.*x.tar' and 1 more; looked for members named .*\.png") as caught:
        TarImages(tmp_path, ["x.tar", "y.tar"])
    assert "\n" not in str(caught.value)


def test_a_shard_that_is_compressed_truncated_or_missing_is_named(tmp_path: Path) -> None:
    images = shards(tmp_path)
    names, whole = list(images.shards), (tmp_path / "x-000001.tar").read_bytes()
    (tmp_path / "x-000001.tar").write_bytes(gzip.compress(whole))
    with pytest.raises(DataError, match=r"x-000001.tar' is compressed"):
        TarImages(tmp_path, names)
    (tmp_path / "x-000001.tar").write_bytes(whole[:3000])
    with pytest.raises(DataError, match=r"x-000001.tar' is truncated"):
        TarImages(tmp_path, names)
    (tmp_path / "x-000001.tar").unlink()
    with pytest.raises(DataError, match=r"cannot read '.*x-000001.tar': No such file"):
        TarImages(tmp_path, names)


def test_a_tar_without_its_end_is_read_and_noted(tmp_path: Path) -> None:
    whole = packing.tar(tmp_path / "x.tar", {"a.png": PNGS[0], "b.png": PNGS[1]}).read_bytes()
    end = TarImages(tmp_path, ["x.tar"])
    assert end.unclosed == ()
    last = int(end.offset[1] + end.n_bytes[1])
    (tmp_path / "x.tar").write_bytes(whole[: -(-last // 512) * 512])
    images = TarImages(tmp_path, ["x.tar"])
    assert torch.equal(images.decode(1).pixels, end.decode(1).pixels)
    assert images.contents() == "2 images in 1 tar file; 'x.tar' without the zeros that end a tar, perhaps truncated"


def test_a_shard_that_changes_later_breaks_its_images_only(tmp_path: Path) -> None:
    images = shards(tmp_path)
    whole = (tmp_path / "x-000001.tar").read_bytes()
    (tmp_path / "x-000001.tar").write_bytes(whole[: int(images.offset[5]) + 9])
    assert images.decode(4).pixels.shape == (3, 20, 20)
    with pytest.raises(DataError, match="beyond the end of its shard"):
        images.decode(5)
    (tmp_path / "x-000002.tar").unlink()
    with pytest.raises(DataError, match="its shard cannot be read: No such file"):
        images.decode(8)


def test_the_limit_of_size_holds(tmp_path: Path) -> None:
    packing.tar(tmp_path / "x.tar", {"a.png": PNGS[0]})
    with pytest.raises(DataError, match="declares 20 x 20 pixels"):
        TarImages(tmp_path, ["x.tar"], max_megapixels=1e-5).decode(0)


# ---- threads and processes


def test_threads_read_in_any_order(tmp_path: Path) -> None:
    images = shards(tmp_path)
    order = [i * 5 % 12 for i in range(600)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.encoded, order)) == [PNGS[i] for i in order]


def _reads(images: TarImages) -> None:
    sys.exit(0 if [images.encoded(i) for i in (11, 0, 5)] == [PNGS[i] for i in (11, 0, 5)] else 1)


def test_other_processes_read_the_same(tmp_path: Path) -> None:
    images = shards(tmp_path)
    assert images.encoded(3) == PNGS[3]
    worker = multiprocessing.get_context("fork").Process(target=_reads, args=(images,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert images.encoded(3) == pickle.loads(pickle.dumps(images)).encoded(3) == PNGS[3]


def test_many_images_take_few_bytes_each(tmp_path: Path) -> None:
    packing.tar(tmp_path / "x.tar", [(f"{i:09}.png", b"") for i in range(20_000)], tarfile.USTAR_FORMAT)
    images = TarImages(tmp_path, ["x.tar"])
    assert len(images) == 20_000
    assert images.path(12_345) == "x.tar/000012345.png"
    assert len(pickle.dumps(images)) < 60 * 20_000
