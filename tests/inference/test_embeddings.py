from __future__ import annotations

import fcntl
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import selfcluster as sc
from selfcluster.api import Run
from selfcluster.inference import feature_cache
from selfcluster.inference.embedding_files import write_embeddings
from tests import tiny


@pytest.fixture
def fresh(run: Run, tmp_path: Path) -> Run:
    """The same run without features."""
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("features"))
    return sc.load(tmp_path / "run")


class _Passes:
    """Counts the images that go through a run's encoder."""

    def __init__(self, run: Run) -> None:
        self.n = 0
        run.model.encoder.register_forward_hook(lambda module, images, out: self._count(len(out)))

    def _count(self, n: int) -> None:
        self.n += n


def test_every_command_after_the_first_reads_the_cache(fresh: Run, tmp_path: Path) -> None:
    passes = _Passes(fresh)
    features = fresh.embed()
    assert passes.n == 30
    assert fresh.cluster(k=3).features == pytest.approx(features, nan_ok=True)
    fresh.assign(fresh.opened.images)
    write_embeddings(fresh.opened, out=tmp_path / "x.npy", layer="head")
    fresh.report()
    fresh.evaluate(only=["label-free"])
    assert passes.n - 30 == 2 * 29  # the two crops of each readable image, which label-free evaluation compares
    again = sc.load(fresh.path)
    passes = _Passes(again)
    again.cluster(k=3)
    assert passes.n == 0


def test_cached_rows_equal_computed_rows(fresh: Run) -> None:
    made = torch.cat(list(fresh.opened.stream(fresh.opened.data().images))).numpy()
    for _ in range(2):
        np.testing.assert_array_equal(fresh.embed(), made)


def test_changing_rows_does_not_change_the_file(fresh: Run) -> None:
    features = fresh.embed()
    features[:] = 0
    assert np.nanmax(np.abs(fresh.embed())) > 0


def test_the_cache_is_logged_with_its_size_and_describes_its_rows(fresh: Run, caplog: pytest.LogCaptureFixture) -> None:
    fresh.embed()
    assert re.search(r"features are kept in .*/features \(0\.0 MB\)", "\n".join(caplog.messages))
    (note,) = (fresh.path / "features").glob("*.json")
    said = json.loads(note.read_text())
    assert (said["n"], said["pixels"], said["precision"]) == (30, 16, "torch.float32")
    assert note.with_suffix(".f32").stat().st_size == 4 * 30 * said["width"]


@pytest.mark.parametrize("change", ["added", "written again", "weights"])
def test_other_images_or_weights_are_not_confused(fresh: Run, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "_FEWEST", 0)
    photos = tmp_path / "photos"
    shutil.copytree(fresh.opened.images, photos)
    before = fresh.embed(str(photos))
    if change == "added":
        shutil.copy(photos / "003.png", photos / "100.png")
    elif change == "written again":
        Image.fromarray(tiny.images(1, seed=9)[0]).save(photos / "000.png")
    else:
        fresh = sc.load(fresh.path)
        with torch.no_grad():
            next(fresh.model.encoder.parameters()).mul_(2)
    passes = _Passes(fresh)
    after = fresh.embed(str(photos))
    assert passes.n == len(after)
    assert not np.array_equal(after, before, equal_nan=True)
    assert len(list((fresh.path / "features").glob("*.f32"))) == (1 if change == "weights" else 2)


def _cut_off_at(run: Run, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt embedding after n images, in the middle of a row."""
    whole = run.opened.stream

    def cut_off(images: object, *, index: np.ndarray, **how: object) -> object:
        for place, i in enumerate(index):
            if place == n:
                raise KeyboardInterrupt
            yield from whole(images, index=np.array([i]), **how)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(run.opened, "stream", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run.embed()
    (unfinished,) = (run.path / "features").glob("*.unfinished")
    with unfinished.open("ab") as file:
        file.write(b"half a row")


def test_an_interrupted_command_is_resumed(fresh: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    _cut_off_at(fresh, 12, monkeypatch)
    passes = _Passes(fresh)
    rows = fresh.embed()
    assert passes.n == 18
    assert "resuming at image 12 of 30" in "\n".join(caplog.messages)
    # One image at a time and all at once give the same up to rounding.
    np.testing.assert_allclose(rows, torch.cat(list(fresh.opened.stream(fresh.opened.data().images))), rtol=5e-4, atol=1e-5)
    assert sorted(file.suffix for file in (fresh.path / "features").iterdir()) == [".f32", ".json"]


def test_two_processes_do_not_write_the_same_rows(fresh: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    _cut_off_at(fresh, 12, monkeypatch)
    (unfinished,) = (fresh.path / "features").glob("*.unfinished")
    with unfinished.with_suffix(".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert len(fresh.embed()) == 30
        assert "another process is computing the same ones" in "\n".join(caplog.messages)
        later = sc.load(fresh.path)
        with torch.no_grad():
            next(later.model.encoder.parameters()).mul_(2)
        later.embed()
    assert unfinished.exists()  # rows that a process is computing are not removed as those of older weights


def test_few_images_that_are_not_the_runs_own_are_not_kept(fresh: Run) -> None:
    fresh.embed(tiny.images(5, seed=3))
    assert not (fresh.path / "features").exists()
    fresh.embed(tiny.images(256, pixels=16, seed=3))
    assert len(list((fresh.path / "features").glob("*.f32"))) == 1


def test_a_folder_that_cannot_be_written_is_logged(fresh: Run, caplog: pytest.LogCaptureFixture) -> None:
    (fresh.path / "features").write_text("in the way")
    assert len(fresh.embed()) == 30
    assert "features are not kept: " in caplog.text


def test_features_are_computed_even_if_they_cannot_be_kept(
    fresh: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert len(fresh.embed()) == 30
    assert "features are not kept: they take 0 MB" in "\n".join(caplog.messages)
    assert list((fresh.path / "features").iterdir()) == []


def test_caching_can_be_turned_off(tmp_path: Path) -> None:
    run = sc.train(tiny.images(), out=tmp_path / "run", keep_features=False, **{**tiny.SETTINGS, "epochs": 1})
    passes = _Passes(run)
    run.embed(tiny.images())
    run.embed(tiny.images())
    assert passes.n == 72
    assert not (run.path / "features").exists()
