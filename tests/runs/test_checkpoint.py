from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from selfcluster.errors import CheckpointError
from selfcluster.runs import atomic, checkpoint
from selfcluster.runs.atomic import folder_written_whole
from selfcluster.runs.checkpoint import CheckpointState, load_checkpoint, save_checkpoint


def _save(folder: Path, step: int, value: float = 1.0, keep: int = 1) -> None:
    tensors = {"model": {"w": torch.full((3,), value), "n": torch.tensor(step)}, "method": {}}
    save_checkpoint(folder, tensors, CheckpointState(step, epoch=1, broken={7: "truncated", 3: "not an image"}), keep=keep)


def test_the_last_checkpoint_is_loaded_and_older_ones_are_deleted(tmp_path: Path) -> None:
    _save(tmp_path, 5, 1.0)
    _save(tmp_path, 10, 2.0)
    tensors, state = load_checkpoint(tmp_path)
    assert torch.equal(tensors["model"]["w"], torch.full((3,), 2.0))
    assert tensors["method"] == {}
    assert (state.step, state.epoch, state.broken) == (10, 1, {7: "truncated", 3: "not an image"})
    assert set(state.files) == {"model.safetensors", "method.safetensors"}
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "last.json"]


def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        _save(tmp_path, step, float(step), keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["10", "15", "last.json"]
    assert load_checkpoint(tmp_path)[0]["model"]["w"][0] == 15
    assert load_checkpoint(tmp_path, 10)[0]["model"]["w"][0] == 10
    with pytest.raises(CheckpointError, match="no checkpoint of step 5; there are: 10 and 15"):
        load_checkpoint(tmp_path, 5)


def test_checkpoints_of_later_steps_are_gone_once_a_run_that_went_back_saves(tmp_path: Path) -> None:
    for step in (5, 10, 7):
        _save(tmp_path, step, keep=3)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["5", "7", "last.json"]
    assert load_checkpoint(tmp_path)[1].step == 7


def test_a_second_checkpoint_of_a_step_replaces_the_first(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0, 4.0):
        _save(tmp_path, 5, value, keep=2)
        assert load_checkpoint(tmp_path)[0]["model"]["w"][0] == value
        assert load_checkpoint(tmp_path, 5)[0]["model"]["w"][0] == value
        assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_the_checkpoint_before_a_damaged_one_is_offered(tmp_path: Path) -> None:
    _save(tmp_path, 5, keep=2)
    _save(tmp_path, 10, keep=2)
    (tmp_path / "checkpoints" / "10" / "model.safetensors").write_bytes(b"")
    with pytest.raises(
        CheckpointError, match=r"is damaged.*; resume from the checkpoint of step 5: selfcluster train --resume --from 5 --out "
    ):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, 5)[1].step == 5


class _Killed(BaseException):
    pass


_CALLS = ("mkdir", "open", "fsync", "rename", "replace", "unlink", "rmdir")


@pytest.mark.parametrize("step", [5, 10])
@pytest.mark.parametrize("fault", ["before", "after", "half", "full"])
def test_there_is_a_checkpoint_whatever_happens_at_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, fault: str) -> None:
    """At every call of the file system: killed before it, after it or in mid-write, or no space left."""
    n_survived, whole = 0, atomic.write_synced
    for fatal in itertools.count():
        folder, counted = tmp_path / str(fatal), itertools.count()
        _save(folder, 3, 0.0, keep=2)
        _save(folder, 5, 1.0, keep=2)

        def faulty(call: Any, counted: Any = counted, fatal: int = fatal) -> Any:
            def wrapped(*a: Any, **k: Any) -> Any:
                is_fatal = next(counted) == fatal
                if is_fatal and fault == "full":
                    raise OSError(28, "No space left on device")
                if is_fatal and fault == "before":
                    raise _Killed
                found = call(*a, **k)
                if is_fatal and fault == "after":
                    raise _Killed
                return found

            return wrapped

        def half(file: Path, content: bytes, counted: Any = counted, fatal: int = fatal) -> None:
            if next(counted) == fatal:
                file.write_bytes(content[: len(content) // 2])
                raise _Killed
            whole(file, content)

        with monkeypatch.context() as patched:
            if fault == "half":
                patched.setattr(checkpoint, "write_synced", half)
                patched.setattr(atomic, "write_synced", half)
            else:
                for name in _CALLS:
                    patched.setattr(os, name, faulty(getattr(os, name)))
            with contextlib.suppress(_Killed, CheckpointError):
                _save(folder, step, 2.0, keep=2)
        n_calls = next(counted)
        tensors, state = load_checkpoint(folder)
        assert (state.step, float(tensors["model"]["w"][0])) in ((5, 1.0), (step, 2.0))
        for known in checkpoint._complete(folder):
            load_checkpoint(folder, known)
        _save(folder, 20, 3.0, keep=2)
        assert load_checkpoint(folder)[1].step == 20
        assert len(list((folder / "checkpoints").iterdir())) in (3, 4)  # .last.json.partial may be left
        n_survived += 1
        if n_calls <= fatal:
            break
    assert n_survived > (4 if fault == "half" else 20)


def test_a_missing_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path)


EDITED: dict[str, Any] = {
    "step": [-1, 2**70, True, "5", None, 6, 5.0],
    "epoch": ["x", -3],
    "step_in_epoch": [[], 2**64],
    "seconds": [-1, None, "1"],
    "broken": [3, [[1]], [["a", "b"]], [[math.inf, "x"]], None],
    "files": [3, {"../model.safetensors": {}}, {"/etc/passwd": {}}, {}, None, {"model.safetensors": 3}],
    "settings": [3, None],
    "version": ["1", None, [1]],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in EDITED.items() for value in values], ids=str)
def test_an_edited_state_is_refused(tmp_path: Path, name: str, value: Any) -> None:
    _save(tmp_path, 5)
    file = tmp_path / "checkpoints" / "5" / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), name: value}))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path)
    assert str(file.parent) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        {"step": 5, "folder": "../5"},
        {"step": 5, "folder": "/etc"},
        {"step": 5, "folder": "6"},
        {"step": "5/.."},
        {"step": 2**70},
        {"step": None},
        [],
        3,
    ],
    ids=str,
)
def test_an_edited_last_is_refused(tmp_path: Path, content: Any) -> None:
    _save(tmp_path, 5)
    (tmp_path / "checkpoints" / "last.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"last\.json.* is damaged.*--from 5"):
        load_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, 5)[1].step == 5


def test_the_first_checkpoint_says_that_there_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full_disk)
    with pytest.raises(CheckpointError, match="No space left on device; there is no previous checkpoint"):
        _save(tmp_path, 10)


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


@pytest.mark.skipif(not Path("/dev/full").exists() or os.name != "posix", reason="needs /dev/full")
def test_a_log_on_a_full_device_is_named_and_closed() -> None:
    with Path("/dev/full").open("a") as file:
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            atomic.append(file, "x\n")
        assert file.closed


def test_a_file_that_cannot_be_replaced_leaves_no_partial_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    atomic.write_atomically(tmp_path / "x", b"before")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_atomically(tmp_path / "x", b"after")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"before")]


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
