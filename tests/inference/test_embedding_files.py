from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from selfcluster.api import Run
from selfcluster.errors import ConfigError
from selfcluster.inference.embedding_files import write_embeddings
from tests import tiny


def test_parquet_contains_every_image_in_order(run: Run, tmp_path: Path) -> None:
    found = write_embeddings(run.opened, out=tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    features = run.embed()
    assert (found.n, found.n_unreadable, found.width) == (30, 1, features.shape[1])
    assert table["path"].to_pylist() == [f"{i:03}.png" for i in range(30)]
    assert table["index"].to_pylist() == list(range(30))
    assert table.schema.field("embedding").type.list_size == features.shape[1]
    rows = np.array(table["embedding"].to_pylist(), dtype=np.float32)
    assert np.isnan(rows).any(axis=1).tolist() == [i == 7 for i in range(30)]
    np.testing.assert_array_equal(rows, features)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.parquet"]


def test_npy_and_the_head(run: Run, tmp_path: Path) -> None:
    write_embeddings(run.opened, out=tmp_path / "x.npy", layer="head")
    rows = np.load(tmp_path / "x.npy")
    assert np.isnan(rows[7]).all()
    np.testing.assert_array_equal(rows, run.embed(layer="head"))
    np.testing.assert_allclose(np.linalg.norm(np.delete(rows, 7, axis=0), axis=1), 1, rtol=1e-5)


def test_labels_are_written_by_name(run: Run, tmp_path: Path) -> None:
    for name in ("ants", "bees"):
        (tmp_path / "data" / name).mkdir(parents=True)
        tiny.folder_of_images(tmp_path / "data" / name, n=3, broken=())
    write_embeddings(run.opened, str(tmp_path / "data"), out=tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["label"].to_pylist() == ["ants"] * 3 + ["bees"] * 3


@pytest.mark.parametrize(
    ("out", "says"),
    [("x.csv", "must end in .parquet or .npy"), ("nowhere/x.npy", "there is no folder"), ("there.npy", "--overwrite")],
)
def test_bad_destinations(run: Run, tmp_path: Path, out: str, says: str) -> None:
    (tmp_path / "there.npy").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=says):
        write_embeddings(run.opened, out=tmp_path / out)
    assert (tmp_path / "there.npy").read_bytes() == b"mine"
    assert [file.name for file in tmp_path.iterdir()] == ["there.npy"]
