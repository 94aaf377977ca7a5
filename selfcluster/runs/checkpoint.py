"""Checkpoints, as safetensors and JSON, never pickle.

checkpoints/<step>/model.safetensors, method.safetensors, optimizer.safetensors, plan.safetensors, watch.safetensors
checkpoints/<step>/state.json      written last, with the size and sha256 of each file above
checkpoints/last.json              names the last checkpoint; swapped in once all of that is on disk, before older ones are deleted

A folder is never written twice: a second checkpoint of the same step has a folder of its own (<step>-2). So at every moment the checkpoint
that last.json names is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from selfcluster.errors import CheckpointError
from selfcluster.formatting import command
from selfcluster.models.model import ClusterModel
from selfcluster.runs.atomic import sync_folder, write_synced
from selfcluster.runs.json_files import read_json, write_json
from selfcluster.settings.config import CHANGEABLE_ON_RESUME, LENGTHS, Config, default_config, flatten

VERSION = 1

_RESTART = "start again with --overwrite"
_LAST = "last.json"
_NAME, _FILE = re.compile(r"\d{1,18}(-\d{1,6})?"), re.compile(r"[a-z]+\.safetensors")
"""Names of the folder of a checkpoint, and of a file of tensors in it."""

NamedTensors = dict[str, dict[str, Tensor]]
"""Tensors by part (model, method, optimizer, plan, watch) and name."""


FileDigest = dict[str, int | str]
"""Size and sha256 of a file, by which damage is detected."""


@dataclass(frozen=True)
class CheckpointState:
    """Contents of state.json."""

    step: int
    epoch: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    """Time spent training."""
    broken: dict[int, str] = field(default_factory=dict)
    """Reason why an image cannot be read, by image index."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the run by flat name."""
    stretch: dict[str, Any] = field(default_factory=dict)
    """How the steps are spread over the schedule, see `training.time_limit`; empty in older checkpoints."""
    files: dict[str, FileDigest] = field(default_factory=dict)
    """Digests by file name, filled in by `save_checkpoint`."""


def save_checkpoint(folder: Path, tensors: NamedTensors, state: CheckpointState, *, keep: int = 1) -> None:
    """Write a checkpoint and make it the last one; if anything goes wrong, the previous one is kept.

    Args:
        folder: the run folder.
        tensors: tensors of all parts.
        state: counts and settings; its step names the checkpoint.
        keep: number of checkpoints that are kept, with this one; those of later steps, from before the run went back, are not.
    Raises:
        CheckpointError: it could not be written, for example because the disk is full.
    """
    checkpoints = folder / "checkpoints"
    try:
        target = _write(checkpoints, tensors, state)
    except OSError as error:
        reason = error.strerror or error
        previous = "the previous checkpoint is kept. Free some space and use --resume"
        if not (checkpoints / _LAST).is_file():
            previous = "there is no previous checkpoint. Free some space and start again with --overwrite"
        raise CheckpointError(f"cannot write a checkpoint of step {state.step} into {str(checkpoints)!r}: {reason}; {previous}") from None
    earlier = sorted((step, path) for step, path in _complete(folder).items() if step < state.step)
    kept = {target, *(path for _, path in earlier[max(0, len(earlier) - keep + 1) :])}
    for other in checkpoints.iterdir():
        if other.is_dir() and other not in kept:
            _delete(other)


def _write(checkpoints: Path, tensors: NamedTensors, state: CheckpointState) -> Path:
    """Write a checkpoint, make it the last one, and return its folder; raise OSError, with nothing of it left, if that is not possible."""
    # After every other of this step, so that the later of two has the higher number.
    there = [path.name.partition("-") for path in checkpoints.glob(f"{state.step}*") if _NAME.fullmatch(path.name)]
    n = 1 + max((int(number or 1) for step, _, number in there if step == str(state.step)), default=0)
    target = checkpoints / (f"{state.step}-{n}" if n > 1 else f"{state.step}")
    partial = target.with_name(f".{target.name}.partial")
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        files = {}
        for part, named in tensors.items():
            content = save({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
            files[f"{part}.safetensors"] = _digest(content)
            write_synced(partial / f"{part}.safetensors", content)
        values = dataclasses.asdict(dataclasses.replace(state, files=files)) | {"broken": sorted(state.broken.items())}
        write_synced(partial / "state.json", json.dumps({"version": VERSION, **values}, indent=1).encode())
        sync_folder(partial)
        os.rename(partial, target)
        sync_folder(checkpoints)
        write_json(checkpoints / _LAST, {"step": state.step, "folder": target.name})
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _delete(path: Path) -> None:
    """Delete a checkpoint, which is never taken for a whole one while it is deleted."""
    gone = path if path.name.startswith(".") else path.with_name(f".{path.name}.gone")
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def has_any(folder: Path) -> bool:
    """Return whether a run folder has a checkpoint, even a damaged one."""
    return (folder / "checkpoints" / _LAST).is_file() or bool(_complete(folder))


def _complete(folder: Path) -> dict[int, Path]:
    """Return the folders of the checkpoints that were written completely, by step; of two of a step, the later one."""
    found = [path for path in (folder / "checkpoints").glob("*") if _NAME.fullmatch(path.name) and (path / "state.json").is_file()]
    return {int(path.name.split("-")[0]): path for path in sorted(found, key=lambda path: (len(path.name), path.name))}


def load_checkpoint(folder: Path, step: int | None = None) -> tuple[NamedTensors, CheckpointState]:
    """Return the tensors and the state of a checkpoint; of the last one if no step is named.

    Raises:
        CheckpointError: there is none, it is damaged (the file is named), or another version wrote it.
    """
    path, state = _read(folder, step)
    tensors = {}
    for name, expected in state.files.items():
        file = path / name
        try:
            if _digest(file.read_bytes()) != expected:
                raise CheckpointError(
                    f"checkpoint file {str(file)!r} is damaged: size or hash differ from state.json; {_way_out(folder, path)}"
                )
            tensors[name.removesuffix(".safetensors")] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read checkpoint file {str(file)!r}: {error}; {_way_out(folder, path)}") from None
    return tensors, state


def make_last(folder: Path, step: int) -> None:
    """Make the checkpoint of this step the last one, from which the run goes on."""
    write_json(folder / "checkpoints" / _LAST, {"step": step, "folder": _complete(folder)[step].name})


def last_step(folder: Path) -> int:
    """Return the step of a run's last checkpoint.

    Raises:
        CheckpointError: there is none, or last.json is damaged.
    """
    return _last(folder)[0]


def read_state(folder: Path, step: int | None = None) -> CheckpointState:
    """Return the state of a checkpoint without its tensors; of the last one if no step is named.

    Raises:
        CheckpointError: there is none, its JSON is damaged, or another version wrote it.
    """
    return _read(folder, step)[1]


def _last(folder: Path) -> tuple[int, Path]:
    """Return the step and the folder of the last checkpoint."""
    last = folder / "checkpoints" / _LAST
    if not last.is_file():
        raise CheckpointError(f"run {str(folder)!r} has no checkpoint: it stopped before its first one; {_RESTART}")
    content = read_json(last, "step", advice=_way_out(folder, None))
    step, name = content["step"], content.get("folder", str(content["step"]))
    if not (isinstance(name, str) and _NAME.fullmatch(name) and name.split("-")[0] == str(step)):
        raise CheckpointError(f"{str(last)!r} is damaged: it names step {step!r} in {name!r}; {_way_out(folder, None)}")
    return int(step), last.with_name(name)


def _read(folder: Path, step: int | None) -> tuple[Path, CheckpointState]:
    """Return the folder and the state of a checkpoint."""
    if step is None:
        step, path = _last(folder)
    elif step in (complete := _complete(folder)):
        path = complete[step]
    else:
        steps = " and ".join(f"{known}" for known in sorted(complete)) or "none"
        raise CheckpointError(f"run {str(folder)!r} has no checkpoint of step {step}; there are: {steps}")
    file, way_out = path / "state.json", _way_out(folder, path)
    content = read_json(file, "version", advice=way_out)
    if content["version"] != VERSION:
        raise CheckpointError(
            f"checkpoint {str(file)!r} has version {content['version']!r}, this selfcluster reads {VERSION}; use the version that wrote it"
        )
    try:
        return path, _state_of(content, step)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}; {way_out}") from None


def _state_of(content: dict[str, Any], step: int) -> CheckpointState:
    """Return the state in a state.json; any error means that it was damaged or edited."""
    values: dict[str, Any] = {f.name: content[f.name] for f in dataclasses.fields(CheckpointState) if f.name != "stretch"}
    values["stretch"] = _stretch_of(content.get("stretch", {}))
    values["broken"] = {int(index): str(reason) for index, reason in content["broken"]}
    values["files"], values["settings"] = dict(content["files"]), dict(content["settings"])
    for name in ("step", "epoch", "step_in_epoch"):
        if type(values[name]) is not int or not 0 <= values[name] < 2**63:
            raise ValueError(f"{name} is {values[name]!r}")
    if values["step"] != step:
        raise ValueError(f"step is {values['step']}, in a checkpoint of step {step}")
    if type(values["seconds"]) not in (int, float) or not 0 <= values["seconds"] < math.inf:
        raise ValueError(f"seconds is {values['seconds']!r}")
    for name, digest in values["files"].items():
        if not (_FILE.fullmatch(name) and isinstance(digest, dict)):
            raise ValueError(f"it names the file {name!r} with {digest!r}")
    if "model.safetensors" not in values["files"]:
        raise ValueError("it names no model.safetensors")
    return CheckpointState(**values)


def _stretch_of(content: Any) -> dict[str, Any]:
    """Return how the steps are spread, if it is as it was written; raise ValueError if not."""
    counts = dict(content)
    wanted = {"total_steps": int, "since": int, "position": float, "seconds": float}
    if counts and (set(counts) != set(wanted) or any(not _is_count(counts[name], kind) for name, kind in wanted.items())):
        raise ValueError(f"stretch is {content!r}")
    return counts


def _is_count(value: Any, kind: type) -> bool:
    return type(value) in (int, kind) and 0 <= value < 2**63


def _way_out(folder: Path, damaged: Path | None) -> str:
    """Return what can be done about a damaged checkpoint: resume from the one before, or start again."""
    others = [step for step, path in _complete(folder).items() if path != damaged]
    if not others:
        return _RESTART
    return f"resume from the checkpoint of step {max(others)}: {command('train', '--resume', '--from', max(others), '--out', folder)}"


def _digest(content: bytes) -> FileDigest:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def save_network(folder: Path, config: Config[Any], model: ClusterModel, *, step: int = 0, epoch: int = 0, seconds: float = 0.0) -> None:
    """Write a checkpoint of the network alone, which can be loaded and trained from (`--init`), but not resumed.

    Args:
        folder: the run folder.
        config: settings of the run.
        model: the network.
        step, epoch, seconds: how long it was trained.
    Raises:
        OSError: it could not be written.
    """
    state = CheckpointState(step, epoch, seconds=seconds, settings=flatten(config))
    _write(folder / "checkpoints", {"model": model.state_dict()}, state)


def check_resumable(folder: Path, step: int | None = None) -> None:
    """Check that the checkpoint (the last one if no step is named) is more than a network alone, see `save_network`; raise CheckpointError if not."""
    if "optimizer.safetensors" not in read_state(folder, step).files:
        raise CheckpointError(
            f"cannot resume {str(folder)!r}: it contains a network without optimizer state, since it was explored, imported or exported; "
            f"train from it with --init {folder}"
        )


def check_settings(state: CheckpointState, config: Config[Any]) -> None:
    """Check that the checkpoint was written under these settings; raise CheckpointError, with the first that differs, if not."""
    # Settings that are newer than the checkpoint had their default values.
    there = flatten(default_config(config.method)) | state.settings
    for name, value in json.loads(json.dumps(flatten(config))).items():
        if name in (*LENGTHS, "extended_at") and config.optim.extended_at == state.step:
            continue  # the run has just been made longer
        if name not in CHANGEABLE_ON_RESUME and json.loads(json.dumps(there[name])) != value:
            raise CheckpointError(f"the checkpoint has {name} {there[name]!r}, but config.toml has {value!r}; restore config.toml")
