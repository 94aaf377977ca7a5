"""Names, merges and splits that come back to the run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import selfcluster as sc
from selfcluster.api import Run
from selfcluster.cli import main
from selfcluster.errors import CheckpointError, DataError
from selfcluster.inference.centroids import read_centroids
from selfcluster.inference.cluster_table import read_table


@pytest.fixture
def clustered(run: Run, tmp_path: Path) -> Run:
    """A run with four clusters, of which image 7 cannot be read."""
    shutil.copytree(run.path, tmp_path / "run")
    found = sc.load(tmp_path / "run")
    found.cluster(k=4)
    return found


def groups(run: Run) -> list[set[str]]:
    """Return the images of each cluster."""
    table = read_table(run.path / "clusters.parquet").to_pylist()
    return [{row["path"] for row in table if row["cluster"] == cluster} for cluster in range(max(row["cluster"] for row in table) + 1)]


def apply(run: Run, tmp_path: Path, text: str) -> sc.Clusters:
    (tmp_path / "names.csv").write_text(text)
    return run.apply(tmp_path / "names.csv")


def test_names_are_kept_and_given_to_new_images(clustered: Run, tmp_path: Path) -> None:
    before = groups(clustered)
    found = apply(clustered, tmp_path, "cluster,name\n0,first\n2,third\n")
    assert groups(clustered) == before
    assert [s.name for s in found.summaries] == ["first", "", "third", ""]
    assert read_centroids(clustered.path).names == ("first", "", "third", "")
    own = clustered.assign(clustered.opened.data()).table
    table = read_table(clustered.path / "clusters.parquet")
    assert own["cluster"].to_pylist() == table["cluster"].to_pylist()
    assert own["name"].to_pylist() == table["name"].to_pylist()
    np.testing.assert_allclose(own["margin"].to_numpy(), table["margin"].to_numpy(), atol=1e-6)
    np.testing.assert_allclose(own["distance"].to_numpy(), table["distance"].to_numpy(), atol=1e-6)


def test_clusters_of_one_name_are_one_and_the_largest_is_0(clustered: Run, tmp_path: Path) -> None:
    before = read_table(clustered.path / "clusters.parquet")
    a, b, c, d = groups(clustered)
    found = apply(clustered, tmp_path, "cluster,name\n1,pets\n3,pets\n")
    assert sorted(map(len, groups(clustered)), reverse=True) == list(map(len, groups(clustered)))
    assert sorted(map(sorted, groups(clustered))) == sorted(map(sorted, [a, b | d, c]))
    assert groups(clustered)[found.centroids.names.index("pets")] == b | d
    after = read_table(clustered.path / "clusters.parquet")
    assert after.select(["is_outlier", "duplicate_of", "copy"]).equals(before.select(["is_outlier", "duplicate_of", "copy"]))
    for axis in "xy":
        np.testing.assert_array_equal(after[axis].to_numpy(), before[axis].to_numpy())
    assert clustered.assign(clustered.opened.data()).table["cluster"].to_pylist() == after["cluster"].to_pylist()
    assert clustered.cluster(k=4)  # clusters can be found anew


def test_a_cluster_is_split_by_its_images(clustered: Run, tmp_path: Path) -> None:
    first, *others = groups(clustered)
    apart = sorted(first)[:2]
    found = apply(
        clustered, tmp_path, "path,cluster,name\n" + "".join(f"{path},0,{'apart' if path in apart else 'rest'}\n" for path in first)
    )
    assert {frozenset(group) for group in groups(clustered)} == {frozenset(apart), frozenset(first - set(apart)), *map(frozenset, others)}
    centroids = read_centroids(clustered.path)
    assert centroids.tree.n_leaves == len(centroids.vectors) == found.table["centroid"].to_numpy().max() + 1
    assert clustered.assign(clustered.opened.data()).table.num_rows == 30


def test_what_cannot_be_applied_changes_nothing(clustered: Run, tmp_path: Path) -> None:
    before = [(clustered.path / name).read_bytes() for name in ("clusters.parquet", "clusters.safetensors")]
    with pytest.raises(DataError, match="there is no cluster 9"):
        apply(clustered, tmp_path, "cluster,name\n9,x\n")
    assert [(clustered.path / name).read_bytes() for name in ("clusters.parquet", "clusters.safetensors")] == before


def test_without_clusters_there_is_nothing_to_name(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("clusters.*"))
    with pytest.raises(CheckpointError, match="run selfcluster cluster"):
        apply(sc.load(tmp_path / "run"), tmp_path, "cluster,name\n0,x\n")


def test_names_survive_another_clustering(clustered: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    apply(clustered, tmp_path, "cluster,name\n0,first\n1,second\n")
    before = groups(clustered)
    clustered.cluster(k=2)
    assert "selfcluster apply" in caplog.text
    assert len(groups(clustered)) == 2
    found = clustered.apply(clustered.path / "names.csv")
    assert groups(clustered) == before
    assert found.centroids.names[:2] == ("first", "second")


def test_a_sorted_folder_brings_its_clusters_back(clustered: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.csv").write_text("cluster,name\n0,Lions & tigers\n")
    main(["apply", str(clustered.path), str(tmp_path / "names.csv"), "--copy-to", str(tmp_path / "sorted"), "--device", "cpu"])
    out = capsys.readouterr().out
    assert "Lions & tigers" in out
    assert f"to have these clusters again: selfcluster apply {clustered.path} {tmp_path / 'sorted' / 'clusters.csv'}" in out
    before = groups(clustered)
    folders = {
        folder.name: {file.name.split("-", 1)[1] for file in folder.iterdir()}
        for folder in (tmp_path / "sorted").iterdir()
        if folder.is_dir()
    }
    assert folders == {
        ("Lions & tigers" if i == 0 else f"cluster-{i}"): {Path(path).name for path in group} for i, group in enumerate(before)
    }
    clustered.cluster(k=6)
    main(["apply", str(clustered.path), str(tmp_path / "sorted" / "clusters.csv"), "--device", "cpu"])
    assert groups(clustered) == before


def test_the_command_line_refuses_in_one_line(clustered: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["apply", str(clustered.path), str(tmp_path / "none.csv")])
    assert left.value.code == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("selfcluster: error: cannot read names from")
