from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from selfcluster.data.readers.images import Images
from selfcluster.data.sources import open_data
from selfcluster.errors import ConfigError, DataError
from selfcluster.inference.cluster_folders import sort_into
from selfcluster.settings.config import DataSettings
from tests import packing, tiny

TABLE = pa.table(
    {"path": list("abcd"), "cluster": [0, 11, 11, -1], "name": pa.array([None] * 4, pa.string()), "rank_in_cluster": [0, 1, 0, -1]}
)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    for name in ("one", "two"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(tiny.images(1)[0]).save(tmp_path / "data" / name / f"{i}.jpg")
    return open_data(str(tmp_path / "data"), DataSettings()).images


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())


@pytest.mark.parametrize("links", [False, True])
def test_a_folder_for_each_cluster_most_typical_first(images: Images, tmp_path: Path, links: bool) -> None:
    assert sort_into(tmp_path / "out", TABLE, images, links=links) == 3
    assert names(tmp_path / "out") == ["cluster-00/0-0.jpg", "cluster-11/0-0.jpg", "cluster-11/1-1.jpg", "clusters.csv"]
    copy = tmp_path / "out" / "cluster-11" / "0-0.jpg"
    assert copy.is_symlink() == links
    assert copy.read_bytes() == (tmp_path / "data" / "two" / "0.jpg").read_bytes()


def test_images_of_an_array_become_files(tmp_path: Path) -> None:
    array = tiny.images(4)
    sort_into(tmp_path / "out", TABLE, open_data(array, DataSettings()).images)
    assert names(tmp_path / "out") == ["cluster-00/0-0.png", "cluster-11/0-2.png", "cluster-11/1-1.png", "clusters.csv"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "cluster-11" / "0-2.png")), array[2])


def test_a_failure_leaves_no_partial_copy(images: Images, tmp_path: Path) -> None:
    (tmp_path / "data" / "two" / "0.jpg").unlink()
    with pytest.raises(DataError, match="no longer exists"):
        sort_into(tmp_path / "out", TABLE, images)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data"]


def test_a_folder_in_use_is_refused(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already contains files"):
        sort_into(tmp_path / "data", TABLE, images)
    (tmp_path / "empty").mkdir()
    assert sort_into(tmp_path / "empty", TABLE, images) == 3
    with pytest.raises(ConfigError, match="cannot be created"):
        sort_into(tmp_path / "no" / "where", TABLE, images)
    with pytest.raises(ConfigError, match="single files"):
        sort_into(tmp_path / "out", TABLE, open_data(tiny.images(4), DataSettings()).images, links=True)


def test_members_of_a_tar_are_copied_unchanged(tmp_path: Path) -> None:
    contents = packing.pngs(4)
    packing.tar(tmp_path / "photos.tar", {f"{i}.png": content for i, content in enumerate(contents)})
    sort_into(tmp_path / "out", TABLE, open_data(str(tmp_path / "photos.tar"), DataSettings()).images)
    assert names(tmp_path / "out") == ["cluster-00/0-0.png", "cluster-11/0-2.png", "cluster-11/1-1.png", "clusters.csv"]
    assert (tmp_path / "out" / "cluster-11" / "0-2.png").read_bytes() == contents[2]


def test_rows_of_a_parquet_file_become_files(tmp_path: Path) -> None:
    packing.parquet(tmp_path / "photos.parquet", {"image": packing.structs(packing.pngs(4))})
    images = open_data(str(tmp_path / "photos.parquet"), DataSettings()).images
    sort_into(tmp_path / "out", TABLE, images)
    assert len(names(tmp_path / "out")) == 4
    written = np.asarray(Image.open(tmp_path / "out" / "cluster-00" / "0-0.png"))
    np.testing.assert_array_equal(written, images.decode(0).pixels.permute(1, 2, 0).numpy())


def test_copies_among_the_images_are_refused(images: Images, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="inside the folder of images"):
        sort_into(tmp_path / "data" / "sorted", TABLE, images)


def test_long_names_are_cut_to_what_file_systems_bear(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    Image.fromarray(tiny.images(1)[0]).save(tmp_path / "data" / f"{'x' * 251}.jpg")
    table = pa.table({"path": ["x"], "cluster": [3], "name": ["日" * 100], "rank_in_cluster": [0]})
    sort_into(tmp_path / "out", table, open_data(str(tmp_path / "data"), DataSettings()).images)
    (folder,) = [path for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert folder.name.startswith("日" * 70)
    assert folder.name.endswith("... cluster-3")
    (file,) = folder.iterdir()
    assert file.name.startswith("0-xxxx")
    assert file.name.endswith("....jpg")
    assert file.is_file()
