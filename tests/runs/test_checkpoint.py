from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from selfcluster.errors import CheckpointError
from selfcluster.runs import atomic, checkpoint
from selfcluster.runs.atomic import folder_written_whole
from selfcluster.runs.checkpoint import CheckpointState, load_checkpoint, save_checkpoint


def _save(folder: Path, step: int, value: float = 1.0) -> None:
    tensors = {"model": {"w": torch.full((3,), value), "n": torch.tensor(step)}, "method": {}}
    save_checkpoint(folder, tensors, CheckpointState(step, epoch=1, broken={7: "truncated", 3: "not an image"}))


def test_the_last_checkpoint_is_loaded_and_older_ones_are_deleted(tmp_path: Path) -> None:
    _save(tmp_path, 5, 1.0)
    _save(tmp_path, 10, 2.0)
    tensors, state = load_checkpoint(tmp_path)
    assert torch.equal(tensors["model"]["w"], torch.full((3,), 2.0))
    assert tensors["method"] == {}
    assert (state.step, state.epoch, state.broken) == (10, 1, {7: "truncated", 3: "not an image"})
    assert set(state.files) == {"model.safetensors", "method.safetensors"}
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "last.json"]


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "state", "no list", "missing", "last", "empty last", "version"])
def test_damage_is_found_and_the_file_named(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, 5)
    last = tmp_path / "checkpoints" / "last.json"
    weights, written = tmp_path / "checkpoints" / "5" / "model.safetensors", tmp_path / "checkpoints" / "5" / "state.json"
    content, state = bytearray(weights.read_bytes()), json.loads(written.read_text())
    if damage == "flip":
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "cut":
        weights.write_bytes(content[:-4])
    elif damage == "gone":
        weights.unlink()
    elif damage == "state":
        written.write_text("{")
    elif damage == "no list":
        written.write_text(json.dumps({**state, "broken": 3}))
    elif damage == "missing":
        written.write_text(json.dumps({name: value for name, value in state.items() if name != "seconds"}))
    elif damage == "last":
        last.write_text("")
    elif damage == "empty last":
        last.write_text("{}")
    else:
        written.write_text(json.dumps({**state, "version": 99}))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_no_space_left_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path, 5, 1.0)
    whole, calls = atomic.write_synced, []

    def full_disk(file: Path, content: bytes) -> None:
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        whole(file, content)

    monkeypatch.setattr(checkpoint, "write_synced", full_disk)
    with pytest.raises(CheckpointError, match="No space left on device; the previous checkpoint is kept"):
        _save(tmp_path, 10, 2.0)
    tensors, state = load_checkpoint(tmp_path)
    assert state.step == 5
    assert tensors["model"]["w"][0] == 1
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["5", "last.json"]


@pytest.mark.skipif(not Path("/dev/full").exists() or os.name != "posix", reason="needs /dev/full")
def test_a_full_device_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        atomic.write_synced(Path("/dev/full"), b"x")


def test_a_folder_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "place"
    with pytest.raises(FileNotFoundError), folder_written_whole(target) as partial:
        (partial / "half").write_bytes((tmp_path / "missing").read_bytes())
    assert list(tmp_path.iterdir()) == []
    with folder_written_whole(target) as partial:
        (partial / "a").write_text("1")
        assert not target.exists()
    with folder_written_whole(target) as partial:
        (partial / "b").write_text("2")
        assert [p.name for p in target.iterdir()] == ["a"]
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in target.parent.iterdir()] == ["place"]


def test_a_folder_that_cannot_be_replaced_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "place"
    target.mkdir()
    (target / "a").write_text("1")
    rename, calls = os.rename, []

    def failing(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"), folder_written_whole(target) as partial:
        (partial / "b").write_text("2")
    assert [p.name for p in tmp_path.iterdir()] == ["place"]
    assert (target / "a").read_text() == "1"
