"""Checkpoints, as safetensors and JSON, never pickle.

checkpoints/<step>/model.safetensors, method.safetensors, optimizer.safetensors, plan.safetensors
checkpoints/<step>/state.json      written last, with the size and sha256 of each file above
checkpoints/last.json              swapped in once all of that is on disk; older checkpoints are deleted afterwards
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from selfcluster.errors import CheckpointError
from selfcluster.models.model import ClusterModel
from selfcluster.runs.atomic import sync_folder, write_synced
from selfcluster.runs.json_files import read_json, write_json
from selfcluster.settings.config import CHANGEABLE_ON_RESUME, LENGTHS, Config, default_config, flatten

VERSION = 1

_RESTART = "start again with --overwrite"

NamedTensors = dict[str, dict[str, Tensor]]
"""Tensors by part (model, method, optimizer, plan) and name."""


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
    files: dict[str, FileDigest] = field(default_factory=dict)
    """Digests by file name, filled in by `save_checkpoint`."""


def save_checkpoint(folder: Path, tensors: NamedTensors, state: CheckpointState) -> None:
    """Write a checkpoint and make it the last one; if anything goes wrong, the previous one is kept.

    Args:
        folder: the run folder.
        tensors: tensors of all parts.
        state: counts and settings; its step names the checkpoint.
    Raises:
        CheckpointError: it could not be written, for example because the disk is full.
    """
    checkpoints = folder / "checkpoints"
    target, partial = checkpoints / str(state.step), checkpoints / f".{state.step}.partial"
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
        shutil.rmtree(target, ignore_errors=True)
        os.rename(partial, target)
        write_json(checkpoints / "last.json", {"step": state.step})
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write checkpoint {str(target)!r}: {error.strerror or error}; the previous checkpoint is kept. Free some space and use --resume"
        ) from None
    for other in checkpoints.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[NamedTensors, CheckpointState]:
    """Return the tensors and the state of a run's last checkpoint.

    Raises:
        CheckpointError: there is none, it is damaged (the file is named), or another version wrote it.
    """
    state = read_state(folder)
    tensors = {}
    for name, expected in state.files.items():
        file = folder / "checkpoints" / str(state.step) / name
        try:
            if _digest(file.read_bytes()) != expected:
                raise CheckpointError(f"checkpoint file {str(file)!r} is damaged: size or hash differ from state.json; {_RESTART}")
            tensors[name.removesuffix(".safetensors")] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read checkpoint file {str(file)!r}: {error}; {_RESTART}") from None
    return tensors, state


def last_step(folder: Path) -> int:
    """Return the step of a run's last checkpoint.

    Raises:
        CheckpointError: there is none, or last.json is damaged.
    """
    last = folder / "checkpoints" / "last.json"
    if not last.is_file():
        raise CheckpointError(f"run {str(folder)!r} has no checkpoint: it stopped before its first one; {_RESTART}")
    return read_json(last, "step", advice=_RESTART)["step"]


def read_state(folder: Path) -> CheckpointState:
    """Return the state of a run's last checkpoint, without its tensors.

    Raises:
        CheckpointError: there is none, its JSON is damaged, or another version wrote it.
    """
    file = folder / "checkpoints" / str(last_step(folder)) / "state.json"
    content = read_json(file, "version", advice=_RESTART)
    if content["version"] != VERSION:
        raise CheckpointError(
            f"checkpoint {str(file)!r} has version {content['version']}, this selfcluster reads {VERSION}; use the version that wrote it"
        )
    try:
        values: dict[str, Any] = {f.name: content[f.name] for f in dataclasses.fields(CheckpointState)}
        values["broken"] = {int(index): reason for index, reason in content["broken"]}
        values["files"] = dict(content["files"])
        return CheckpointState(**values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}; {_RESTART}") from None


def _digest(content: bytes) -> FileDigest:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def save_network(folder: Path, config: Config[Any], model: ClusterModel, *, step: int = 0, epoch: int = 0, seconds: float = 0.0) -> None:
    """Write a checkpoint of the network alone, which can be loaded and trained from (`--init`), but not resumed.

    Args:
        folder: the run folder.
        config: settings of the run.
        model: the network.
        step, epoch, seconds: how long it was trained.
    """
    state = CheckpointState(step, epoch, seconds=seconds, settings=flatten(config))
    save_checkpoint(folder, {"model": model.state_dict()}, state)


def check_resumable(folder: Path) -> None:
    """Check that the last checkpoint is more than a network alone, see `save_network`; raise CheckpointError if not."""
    if "optimizer.safetensors" not in read_state(folder).files:
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
