"""Tar and parquet files as DATA: how they are opened, and runs on them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfcluster as sc
from selfcluster.data.readers.parquet import ParquetImages
from selfcluster.data.readers.tar import TarImages
from selfcluster.data.readers.unpacked import UnpackedGroups
from selfcluster.data.sources import open_packed
from selfcluster.errors import DataError
from selfcluster.training import loop
from tests import packing, tiny

PNGS = packing.pngs(2)


def test_each_kind_is_opened_as_what_it_is(tmp_path: Path) -> None:
    packing.tar(tmp_path / "x.tar", {"a.png": PNGS[0]})
    packing.parquet(tmp_path / "x.PARQUET", {"a": PNGS, "b": PNGS})
    assert isinstance(open_packed(tmp_path, ["x.tar"], column="", max_megapixels=100), TarImages)
    images = open_packed(tmp_path, ["x.PARQUET"], column="b", max_megapixels=100)
    assert isinstance(images, ParquetImages)
    assert images.column == "b"
    with pytest.raises(DataError, match=r"contains both tar and parquet files; choose one kind, such as '.*\*\.tar'"):
        open_packed(tmp_path, ["x.tar", "x.PARQUET"], column="", max_megapixels=100)
    with pytest.raises(DataError, match=r"#a names a column of parquet files, but '.*x\.tar' is not parquet; leave it out"):
        open_packed(tmp_path, ["x.tar"], column="a", max_megapixels=100)


def test_every_process_that_torchrun_starts_here_needs_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS})
    for n, has_room in ((2, True), (10**15, False)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(n))
        images = open_packed(tmp_path, ["x.parquet"], column="", max_megapixels=100)
        assert isinstance(images, ParquetImages)
        assert isinstance(images.store, UnpackedGroups) == has_room


# ---- runs

FAST: dict[str, Any] = {**tiny.SETTINGS, "epochs": 2}


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Thirty images, one of them broken, in two classes: as a folder, as tars and as parquet, in the same order."""
    root = tmp_path_factory.mktemp("same")
    contents = packing.pngs(30)
    contents[7] = b"no image"
    names = [f"{'ab'[i // 15]}/{i:03}.png" for i in range(30)]
    for name, content in zip(names, contents, strict=True):
        (root / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "folder" / name).write_bytes(content)
    for shard, part in enumerate((slice(0, 11), slice(11, 30))):
        packing.tar(root / "tars" / f"{shard}.tar", dict(zip(names[part], contents[part], strict=True)))
        label = [name[0] for name in names[part]]
        packing.parquet(root / "parquet" / f"{shard}.parquet", {"image": packing.structs(contents[part]), "label": label}, group=4)
    return {name: root / name for name in ("folder", "tars", "parquet")}


@pytest.fixture(scope="module")
def of_folder(same: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    return sc.train(same["folder"], out=tmp_path_factory.mktemp("runs") / "run", workers=0, **FAST)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_training_is_the_same_from_a_folder_from_tars_and_from_parquet(
    same: dict[str, Path], of_folder: sc.Run, tmp_path: Path, kind: str, workers: int
) -> None:
    run = sc.train(same[kind], out=tmp_path / "run", workers=workers, cache_gib=0 if workers else 4, **FAST)
    for name, value in of_folder.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name]), name
    with (run.path / "skipped.csv").open() as file:
        skipped = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert skipped == {"0.tar/a/007.png" if kind == "tars" else "0.parquet/7": "is not an image"}
    features = run.embed()
    assert np.array_equal(np.isnan(features).any(axis=1), np.arange(30) == 7)
    assert np.array_equal(features, of_folder.embed(), equal_nan=True)


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_a_run_on_packed_images_resumes_to_the_same_weights(
    same: dict[str, Path], of_folder: sc.Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, fit = str(same[kind] / f"{{0..1}}.{kind.removesuffix('s')}"), loop.fit
    monkeypatch.setattr(loop, "fit", lambda t, log, folder: fit(t, log, folder, stop_at=4))
    with pytest.raises(loop.Interrupted):
        sc.train(pattern, out=tmp_path / "run", workers=0, **FAST)
    monkeypatch.undo()
    run = sc.train(out=tmp_path / "run", resume=True)
    for name, value in of_folder.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["tars", "parquet"])
def test_resume_refuses_packed_images_that_have_changed(same: dict[str, Path], tmp_path: Path, kind: str) -> None:
    shutil.copytree(same[kind], tmp_path / kind)
    sc.train(tmp_path / kind, out=tmp_path / "run", **{**FAST, "epochs": 1})
    if kind == "tars":
        packing.tar(tmp_path / kind / "2.tar", {"b/999.png": PNGS[0]})
        message = r"0 images removed, 1 added \(\+2.tar/b/999.png\)"
    else:
        contents = packing.pngs(11, seed=1)
        packing.parquet(tmp_path / kind / "0.parquet", {"image": packing.structs(contents), "label": ["a"] * 11}, group=4)
        message = "the contents of images differ"
    with pytest.raises(sc.DataError, match=message):
        sc.train(out=tmp_path / "run", resume=True)
