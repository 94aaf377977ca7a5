"""Exploring leaves a run that every verb takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import selfcluster as sc
from selfcluster.cli import main
from selfcluster.inference.centroids import read_centroids
from selfcluster.inference.cluster_table import read_table
from selfcluster.settings.config import BUNDLED
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explore")
    (folder / "images").mkdir()
    tiny.folder_of_images(folder / "images", 40, broken=(7,))
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> sc.Run:
    return sc.explore(folder / "images", k=4, out=folder / "run", device="cpu")


def test_clusters_are_those_of_centered_features(run: sc.Run) -> None:
    assert (run.config.method, run.config.model.encoder, run.config.model.init) == ("explore", BUNDLED, "pretrained")
    features = torch.from_numpy(run.embed())
    readable = ~features[:, 0].isnan()
    assert int(readable.sum()) == 39
    unit = normalize(features[readable] - features[readable].mean(dim=0))
    np.testing.assert_allclose(run.embed(layer="head")[readable], unit, atol=1e-4)
    table, centroids = read_table(run.path / "clusters.parquet"), read_centroids(run.path)
    clusters = table["cluster"].to_numpy()
    assert clusters.max() == 3  # four clusters, of one or several prototypes each
    wanted = (unit @ run.model.prototypes.heads()[0].T).argmax(dim=1).numpy()
    assert np.array_equal(table["centroid"].to_numpy()[readable], wanted)
    assert np.array_equal(clusters[readable], centroids.clusters.numpy()[wanted])
    assert clusters[~readable].tolist() == [-1]
    assert (run.path / "skipped.csv").read_text().splitlines()[1:] == ['"007.png","is not an image"']


def test_the_run_is_assigned_to_reported_exported_and_evaluated(run: sc.Run, folder: Path) -> None:
    again = sc.load(run.path)
    assert torch.equal(again.model.head.mean, run.model.head.mean)
    own, new = (table["cluster"] for table in (read_table(run.path / "clusters.parquet"), again.assign(folder / "images").table))
    assert own.to_pylist() == new.to_pylist()
    assert again.report().is_file()
    again.export("timm", out=folder / "timm")
    assert json.loads((folder / "timm" / "config.json").read_text())["architecture"] == BUNDLED
    again.export("whole", out=folder / "whole")
    assert list(again.evaluate(labels="none", only=["label-free"]).figures) == ["raw pixels", "patches", "pretrained encoder"]
    assert len(again.cluster(k=3).summaries) == 3


def test_training_starts_from_it_and_resuming_is_refused(run: sc.Run, folder: Path) -> None:
    trained = sc.train(folder / "images", out=folder / "trained", init=str(run.path), crop_pixels=64, epochs=2, device="cpu")
    assert (trained.config.model.encoder, trained.config.model.pixel_mean) == (BUNDLED, (0.5, 0.5, 0.5))
    assert (trained.config.method, trained.config.model.freeze) == ("deepcluster-v2", "but-last")
    before, after = run.model.encoder, trained.model.encoder
    assert torch.equal(before.conv_stem.weight, after.conv_stem.weight)
    assert not torch.equal(before.conv_head.weight, after.conv_head.weight)
    assert trained.embed(folder / "images").shape == run.embed(folder / "images").shape
    with pytest.raises(sc.CheckpointError, match="without optimizer state"):
        sc.train(resume=True, out=run.path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "1"], "k must be at least 2, got 1"),
        (["--k", "99"], "40 readable images are fewer than 99 clusters"),
        (["--encoder", "resnet1O"], "unknown encoder 'resnet1O'"),
        (["--encoder", "resnet10_small_quarter"], "resnet10_small_quarter"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["explore", str(folder / "images"), "--out", str(tmp_path / "run"), "--device", "cpu", *arguments])
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def test_the_command_finds_the_number_of_clusters_and_prints_the_page_and_what_comes_next(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explore", str(folder / "images"), "--out", str(tmp_path / "run"), "--device", "cpu", "--pixels", "40"])
    said = capsys.readouterr().out.splitlines()
    found = sc.load(tmp_path / "run").config
    assert (2 <= found.n_prototypes[0] <= 20, found.crops.crop_pixels) == (True, (40,))
    assert said[0].startswith("40 images in ")
    assert said[-3].endswith(f"{(tmp_path / 'run' / 'report.html').as_uri()}")
    assert (
        said[-2]
        == f"next: name clusters on the page, export the names, and selfcluster apply {tmp_path / 'run'} NAMES.csv --copy-to FOLDER"
    )
    assert said[-1] == f"to adapt the encoder to these images: selfcluster train {folder / 'images'} --init {tmp_path / 'run'}"


def test_a_folder_called_like_a_word_is_not_meant_by_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = sc.explore(tiny.images(), out="pretrained", k=2, device="cpu")
    again = sc.explore(tiny.images(), out="again", k=2, device="cpu")
    assert again.config.model.init == first.config.model.init == "pretrained"


def test_a_dictionary_larger_than_the_patches_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    with pytest.raises(sc.DataError, match=r"have .* patches, fewer than the 100,000,000 of the dictionary; lower --n-codes"):
        sc.explore(tiny.images(4), encoder="patches", n_codes=10**8, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
