"""Exploring by patches: fitted to the images, kept in the run, and used like any encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import selfcluster as sc
from selfcluster.cli import main
from selfcluster.inference.cluster_table import read_table
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patches")
    (folder / "images").mkdir()
    tiny.folder_of_images(folder / "images", 40, broken=(7,))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> sc.Run:
    return sc.explore(folder / "images", encoder="patches", n_codes=64, k=3, out=folder / "run", device="cpu")


def test_the_run_reopens_and_is_assigned_to_reported_and_clustered(run: sc.Run, folder: Path) -> None:
    again = sc.load(run.path)
    features = again.embed()
    assert features.shape == (40, 512)
    assert np.isnan(features).all(axis=1).tolist() == [index == 7 for index in range(40)]
    assert np.nanstd(features, axis=0)[:30].min() > 0
    own, new = (table["cluster"] for table in (read_table(run.path / "clusters.parquet"), again.assign(folder / "images").table))
    assert own.to_pylist() == new.to_pylist()
    assert again.report().is_file()
    assert len(again.cluster(k=2).summaries) == 2
    assert len(again.cluster().summaries) <= 4  # as many as stand out, not one for each of the leaves


def test_it_is_not_its_own_baseline_but_that_of_others(run: sc.Run) -> None:
    assert list(run.evaluate(labels="none", only=["label-free"]).figures) == ["raw pixels", "pretrained encoder", "patches"]


def test_timm_and_onnx_compute_the_same_features(run: sc.Run, folder: Path) -> None:
    run.export("timm", out=folder / "timm")
    encoder = timm.create_model(f"local-dir:{folder / 'timm'}", pretrained=True).eval()
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder(pixels), run.model.encoder(pixels), rtol=1e-5, atol=1e-5)
    assert "small patches of the images below were clustered" in (run.export("hub", out=folder / "hub").path / "README.md").read_text()
    pytest.importorskip("onnxruntime")
    run.export("onnx", out=folder / "onnx")  # compares the graph with the network


def test_patches_of_a_run_are_used_as_they_are_on_other_images(run: sc.Run, tmp_path: Path) -> None:
    images = tiny.images(12, pixels=80, seed=1)
    other = sc.explore(images, encoder=str(run.path), k=2, out=tmp_path / "run", device="cpu")
    assert other.config.crops.crop_pixels == run.config.crops.crop_pixels
    np.testing.assert_allclose(other.embed(images), run.embed(images), rtol=1e-5, atol=1e-5)
    with pytest.raises(sc.ConfigError, match="patches were fitted to images of 32 px"):
        sc.explore(images, encoder=str(run.path), pixels=64, k=2, out=tmp_path / "refused", device="cpu")


@pytest.mark.parametrize("how", [{"encoder": "patches"}, {"init": "RUN"}])
def test_patches_are_not_trained(how: dict[str, str], run: sc.Run, tmp_path: Path) -> None:
    settings = {name: value for name, value in tiny.SETTINGS.items() if name != "encoder"} | {"method": "swav"}
    given = {name: value.replace("RUN", str(run.path)) for name, value in how.items()}
    with pytest.raises(sc.ConfigError, match="encoder 'patches' is fitted, not trained"):
        sc.train(tiny.images(), out=tmp_path / "run", **settings, **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-codes", "33"], "n_codes 33 must be an even number of at least 2"),
        (["--n-codes", "40000"], "40 images have 29,160 patches, fewer than the 40,000 of the dictionary; lower --n-codes"),
        (["--init", "random"], "patches are fitted to the images, and take no weights"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["explore", str(folder / "images"), "--encoder", "patches", "--out", str(tmp_path / "run"), *arguments])
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
