"""What a run folder contains can be read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from selfcluster.data.readers.labels import labels_of
from selfcluster.errors import CheckpointError, DataError
from selfcluster.runs.environment import Environment, current_environment, read_environment, write_environment
from selfcluster.runs.folder import claim, prepare, read_config
from selfcluster.runs.manifest import check_same_data, is_labeled, read_manifest, write_manifest
from selfcluster.settings.config import flatten
from selfcluster.settings.resolve import ResolvedConfig
from tests import tiny


def test_settings_and_images_are_read_back(tmp_path: Path) -> None:
    config = tiny.config(test_share=0.25)
    origins = dict.fromkeys(flatten(config), "default") | {"lr": "recipe: 2 % of 50, # one", "encoder": "flag"}
    prepare(tmp_path, ResolvedConfig(config, origins), tiny.data(40))
    assert read_config(tmp_path) == (config, "")
    manifest = read_manifest(tmp_path)
    assert len(manifest.paths) == 40
    assert len(manifest.trained_on) == 30
    assert manifest.digest == tiny.data(40).images.digest()
    check_same_data(tmp_path, tiny.data(40))
    with pytest.raises(DataError, match="2 images removed, 0 added"):
        check_same_data(tmp_path, tiny.data(38))


@pytest.mark.parametrize(("labels", "wanted"), [(None, False), (np.zeros(40, dtype=int), False), (np.arange(40) % 2, True)])
def test_whether_the_images_have_labels_is_read_back(labels: np.ndarray | None, wanted: bool, tmp_path: Path) -> None:
    data = tiny.data(40)
    data.images.labels = None if labels is None else labels_of(labels, 40)
    write_manifest(tmp_path, data, np.arange(40))
    assert is_labeled(tmp_path) == wanted


def test_a_claimed_number_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    claimed = [claim(None, "photos", "swav", overwrite=False) for _ in range(3)]
    assert claimed == [Path("runs", f"photos-swav-{n}") for n in (1, 2, 3)]
    assert all(folder.is_dir() for folder in claimed)


def test_a_link_to_nowhere_is_no_place_for_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to("not/mounted")
    with pytest.raises(FileExistsError):
        claim(None, "photos", "swav", overwrite=False)


def test_an_environment_is_read_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert read_environment(tmp_path) == Environment()
    environment = current_environment(imported_from="ckp-3.pth")
    write_environment(tmp_path, environment)
    assert read_environment(tmp_path) == environment
    file = tmp_path / "environment.json"
    write_environment(tmp_path, Environment(device="cpu"))
    assert json.loads(file.read_text()) == {"device": "cpu", "ranks": 1}
    file.write_text("[1]")
    with pytest.raises(CheckpointError, match=r"environment.json' is damaged: expected an object, found a list; delete it"):
        read_environment(tmp_path)


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").write_bytes(np.arange(9).tobytes())
    with pytest.raises(CheckpointError, match=r"cannot read .*data\.parquet"):
        read_manifest(tmp_path)
