from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import selfcluster as sc
from selfcluster.api import Run
from selfcluster.errors import ConfigError
from selfcluster.inference.embeddings import write_embeddings
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("embeddings")
    (folder / "photos").mkdir()
    tiny.folder_of_images(folder / "photos", n=30, broken=(7,))
    settings = {name: value for name, value in tiny.SETTINGS.items() if name != "epochs"}
    return sc.train(str(folder / "photos"), out=folder / "run", epochs=1, **settings)


def test_parquet_holds_every_image_in_order(run: Run, tmp_path: Path) -> None:
    found = write_embeddings(run, out=tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    features = run.embed()
    assert (found.n, found.n_unreadable, found.width) == (30, 1, features.shape[1])
    assert table["path"].to_pylist() == [f"{i:03}.png" for i in range(30)]
    assert table["index"].to_pylist() == list(range(30))
    assert table["embedding"].is_valid().to_pylist() == [i != 7 for i in range(30)]
    assert table.schema.field("embedding").type.list_size == features.shape[1]
    rows = np.array([row for row in table["embedding"].to_pylist() if row is not None], dtype=np.float32)
    np.testing.assert_array_equal(rows, np.delete(features, 7, axis=0))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.parquet"]


def test_npy_and_the_head(run: Run, tmp_path: Path) -> None:
    write_embeddings(run, out=tmp_path / "x.npy", layer="head")
    rows = np.load(tmp_path / "x.npy")
    assert np.isnan(rows[7]).all()
    np.testing.assert_array_equal(rows, run.embed(layer="head"))
    np.testing.assert_allclose(np.linalg.norm(np.delete(rows, 7, axis=0), axis=1), 1, rtol=1e-5)


def test_what_was_begun_is_gone_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = run.stream
    out = tmp_path / "x.npy"

    def cut_off(images: object, *, index: np.ndarray, **how: object) -> object:
        for place, i in enumerate(index):
            if place == 12:
                raise KeyboardInterrupt
            yield from whole(images, index=np.array([i]), **how)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(run, "stream", cut_off)
        with pytest.raises(KeyboardInterrupt):
            write_embeddings(run, out=out)
    assert not out.exists()
    unfinished = tmp_path / ".x.npy.unfinished"
    with unfinished.open("ab") as file:
        file.write(b"half a row")
    asked = []

    def noted(images: object, *, index: np.ndarray, **how: object) -> object:
        asked.extend(index.tolist())
        yield from whole(images, index=index, **how)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(run, "stream", noted)
        write_embeddings(run, out=out)
    assert asked == list(range(12, 30))
    assert "going on at image 12 of 30" in capsys.readouterr().err
    # One image at a time and all at once give the same up to rounding.
    np.testing.assert_allclose(np.load(out), run.embed(), rtol=1e-4, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]


def test_what_was_begun_for_other_images_is_not(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".x.npy.unfinished").write_bytes(bytes(4 * 100))
    (tmp_path / ".x.npy.unfinished.json").write_text('{"identity": "another", "width": 10}')
    write_embeddings(run, out=tmp_path / "x.npy")
    assert "begins anew" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), run.embed())


def test_labels_are_written_by_name(run: Run, tmp_path: Path) -> None:
    for name in ("ants", "bees"):
        (tmp_path / "data" / name).mkdir(parents=True)
        tiny.folder_of_images(tmp_path / "data" / name, n=3, broken=())
    write_embeddings(run, str(tmp_path / "data"), out=tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet")["label"].to_pylist() == ["ants"] * 3 + ["bees"] * 3


@pytest.mark.parametrize(
    ("out", "says"),
    [("x.csv", "must end in .parquet or .npy"), ("nowhere/x.npy", "there is no folder"), ("there.npy", "--overwrite")],
)
def test_bad_destinations(run: Run, tmp_path: Path, out: str, says: str) -> None:
    (tmp_path / "there.npy").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=says):
        write_embeddings(run, out=tmp_path / out)
    assert (tmp_path / "there.npy").read_bytes() == b"mine"
    assert [file.name for file in tmp_path.iterdir()] == ["there.npy"]
