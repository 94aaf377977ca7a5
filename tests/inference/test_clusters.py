from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import selfcluster as sc
from selfcluster.api import Run
from selfcluster.errors import CheckpointError, ConfigError, DataError
from selfcluster.inference.centroids import read_centroids
from selfcluster.inference.cluster_table import read_table, write_table
from selfcluster.inference.clusters import assign, cluster
from selfcluster.settings.config import default_config, flatten
from tests import tiny
from tests.clustering.test_tree import splits

METHODS = ["swav", "deepcluster", "deepcluster-v2", "sela-v2"]


def trained(folder: Path, method: str = "swav") -> Run:
    (folder / "photos").mkdir()
    tiny.folder_of_images(folder / "photos", n=30, broken=(7,))
    known = flatten(default_config(method))
    settings = {**tiny.SETTINGS, **tiny.OF_METHOD.get(method, {}), "epochs": 1, "on_collapse": "warn"}
    if method == "deepcluster":
        settings |= {"head_width": 0, "embedding_width": 0}
    return sc.train(str(folder / "photos"), method=method, out=folder / "run", **{k: v for k, v in settings.items() if k in known})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("clusters"))


def rows(run: Run, layer: Any) -> torch.Tensor:
    return torch.from_numpy(np.delete(run.embed(layer=layer), 7, axis=0))


def columns(table: Any) -> dict[str, np.ndarray]:
    return {name: np.delete(table[name].to_numpy(), 7) for name in ("cluster", "centroid", "distance", "margin", "rank_in_cluster")}


def test_prototypes_decide(run: Run) -> None:
    found = cluster(run.opened)
    scores = rows(run, "head") @ run.model.prototypes.weight.detach().T
    best = scores.sort(dim=1, descending=True)
    got = columns(found.table)
    np.testing.assert_array_equal(got["centroid"], best.indices[:, 0])
    np.testing.assert_array_equal(got["cluster"], found.centroids.clusters.numpy()[got["centroid"]])
    np.testing.assert_allclose(got["margin"], best.values[:, 0] - best.values[:, 1], atol=1e-5)
    names = ["path", "index", "cluster", "name", "centroid", "distance", "margin", "rank_in_cluster", "is_outlier", "is_odd", "x", "y"]
    assert found.table.column_names == [*names, "duplicate_of", "copy"]


@pytest.mark.parametrize("k", [None, "auto", 4])
def test_clusters_are_numbered_by_size(run: Run, k: Any) -> None:
    sizes = np.bincount(columns(cluster(run.opened, k=k).table)["cluster"])
    assert (np.diff(sizes) <= 0).all()


def test_distance_and_cohesion_are_those_of_the_centered_features(run: Run) -> None:
    features = rows(run, "features")
    unit = normalize(features - features.mean(dim=0))
    for k in (None, 4):
        found = cluster(run.opened, k=k)
        got = columns(found.table)
        for s in found.summaries:
            mine = got["cluster"] == s.cluster
            mean = normalize(unit[torch.from_numpy(mine)].mean(dim=0), dim=0)
            np.testing.assert_allclose(got["distance"][mine], 1 - (unit[torch.from_numpy(mine)] @ mean).numpy(), atol=1e-5)
            assert s.cohesion == pytest.approx(1 - got["distance"][mine].mean(), abs=1e-5)


def test_ranks_follow_the_distance_within_each_cluster(run: Run) -> None:
    got = columns(cluster(run.opened, k=3).table)
    for c in np.unique(got["cluster"]):
        mine = got["cluster"] == c
        np.testing.assert_array_equal(np.sort(got["rank_in_cluster"][mine]), np.arange(mine.sum()))
        assert (np.diff(got["distance"][mine][np.argsort(got["rank_in_cluster"][mine])]) >= 0).all()


def test_an_unreadable_image_has_a_row_and_no_cluster(run: Run) -> None:
    table = cluster(run.opened).table
    assert table["path"].to_pylist() == [f"{i:03}.png" for i in range(30)]
    assert table["cluster"].to_pylist()[7] == -1
    assert (np.delete(table["cluster"].to_numpy(), 7) >= 0).all()
    assert np.isnan(table["distance"].to_pylist()[7])
    assert not table["is_outlier"].to_pylist()[7]


def test_a_given_number_of_clusters(run: Run) -> None:
    found = cluster(run.opened, k=4, seed=1)
    assert found.centroids.layer == "features"
    assert len(found.summaries) == 4
    assert sum(s.size for s in found.summaries) == 29
    assert all(s.cluster not in s.nearest and len(s.nearest) == 3 for s in found.summaries)
    assert [s.size for s in found.summaries] == sorted((s.size for s in found.summaries), reverse=True)


def test_more_clusters_split_those_of_fewer(run: Run) -> None:
    cuts = [columns(cluster(run.opened, k=k).table)["cluster"] for k in (2, 4, 5)]
    assert all(splits(coarse, fine) for coarse, fine in itertools.pairwise(cuts))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_clusters_that_new_images_can_be_assigned_to(method: str, tmp_path: Path) -> None:
    run = trained(tmp_path, method)
    found = run.cluster()
    assert len(pq.read_table(run.path / "clusters.parquet")) == 30
    again = assign(sc.load(run.path).opened, str(tmp_path / "photos")).table
    for name in ("cluster", "rank_in_cluster"):
        assert again[name].to_pylist() == found.table[name].to_pylist()
    np.testing.assert_allclose(again["distance"].to_numpy(), found.table["distance"].to_numpy(), atol=1e-5)


def test_new_images_of_another_kind_are_outliers(run: Run, tmp_path: Path) -> None:
    run.cluster(k=2)
    flat = np.zeros((4, 20, 20, 3), dtype=np.uint8)
    assert all(assign(run.opened, flat).table["is_outlier"].to_pylist())
    assert np.mean(assign(run.opened, tiny.images(30)).table["is_outlier"].to_numpy()) < 0.2


def test_copies_point_at_the_first(run: Run, tmp_path: Path) -> None:
    for i, image in enumerate(tiny.images(20)):
        Image.fromarray(image).save(tmp_path / f"{i:03}.png")
    Image.fromarray(tiny.images(20)[3]).resize((40, 40), Image.Resampling.BICUBIC).save(tmp_path / "a-larger.jpg", quality=95)
    Image.fromarray(tiny.images(20)[5]).save(tmp_path / "z-again.png")
    table = cluster(run.opened, str(tmp_path), k=2).table
    paths = table["path"].to_pylist()
    copies = {paths[i]: paths[first] for i, first in enumerate(table["duplicate_of"].to_pylist()) if first is not None}
    assert copies == {"a-larger.jpg": "003.png", "z-again.png": "005.png"}


def test_a_table_of_an_older_version_is_read(run: Run, tmp_path: Path) -> None:
    table = cluster(run.opened).table
    older = table.rename_columns(["far" if name == "is_outlier" else name for name in table.column_names])
    write_table(older, tmp_path / "clusters.parquet")
    again = read_table(tmp_path / "clusters.parquet")
    assert again.column_names == table.column_names
    assert again["is_outlier"].equals(table["is_outlier"])


def test_the_map_shows_the_two_directions_of_most_variance(run: Run) -> None:
    table = cluster(run.opened, k=3, projection="pca").table
    places = np.delete(np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1), 7, axis=0)
    centered = normalize(rows(run, "features")).double()
    centered = centered - centered.mean(dim=0)
    variances = torch.linalg.svdvals(centered)[:2].numpy()
    np.testing.assert_allclose(np.linalg.norm(places, axis=0), variances, rtol=1e-3)
    assert pc.sum(pc.is_nan(table["x"])).as_py() == 1


def test_bad_input(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"30 images are fewer than 40 clusters"):
        cluster(run.opened, k=40)
    with pytest.raises(ConfigError, match="k must be at least 2, got 1"):
        cluster(run.opened, k=1)
    with pytest.raises(CheckpointError, match="selfcluster cluster"):
        read_centroids(tmp_path)
    (tmp_path / "clusters.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        read_centroids(tmp_path)


def test_clusters_of_older_weights_are_refused(tmp_path: Path) -> None:
    run = trained(tmp_path)
    run.cluster()
    centroids = read_centroids(run.path)
    last = run.path / "checkpoints" / "last.json"
    last.write_text('{"step": 1000}')
    with pytest.raises(CheckpointError, match=rf"of step {centroids.step}, but its network is of step 1,000; run selfcluster cluster"):
        assign(run.opened, str(tmp_path / "photos"))


def test_a_new_run_in_the_folder_has_no_clusters(tmp_path: Path) -> None:
    trained(tmp_path).cluster()
    settings = {**tiny.SETTINGS, "epochs": 1}
    sc.train(str(tmp_path / "photos"), out=tmp_path / "run", overwrite=True, **settings)
    assert not list((tmp_path / "run").glob("clusters*"))


def test_class_names_of_any_bytes_are_escaped(run: Run, tmp_path: Path) -> None:
    for name in (b"caf\xe9", b"tea"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        for i, image in enumerate(tiny.images(3)):
            Image.fromarray(image).save(os.path.join(os.fsdecode(folder), f"{i}.png"))
    assert set(cluster(run.opened, str(tmp_path), k=2).table["label"].to_pylist()) == {"caf\\xe9", "tea"}


def test_two_images_suffice(run: Run, tmp_path: Path) -> None:
    for i, image in enumerate(tiny.images(2)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    assert len(cluster(run.opened, str(tmp_path), k="auto").table) == 2
    (tmp_path / "1.png").unlink()
    with pytest.raises(DataError, match="one image cannot be clustered"):
        cluster(run.opened, str(tmp_path))
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 2 images can be read"):
        cluster(run.opened, str(tmp_path))


def test_the_saved_table_is_read_again(run: Run) -> None:
    found = run.cluster(k=3)
    assert run.table["cluster"].equals(found.table["cluster"])
    (run.path / "clusters.parquet").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"cannot read .*clusters\.parquet.*; run selfcluster cluster .* again"):
        run.table  # noqa: B018
    (run.path / "clusters.parquet").unlink()
    with pytest.raises(CheckpointError, match="contains no clusters; run selfcluster cluster"):
        run.table  # noqa: B018
    run.cluster(k=3)
