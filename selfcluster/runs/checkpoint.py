"""Checkpoints that are written whole or not at all: safetensors and readable JSON, never pickle.

checkpoints/<step>/model.safetensors, method.safetensors, optimizer.safetensors, plan.safetensors
checkpoints/<step>/state.json      last: counts, list of broken images, and the size and sha256 of each file above
checkpoints/last.json              swapped in when all that is on the disk; older checkpoints go after that
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from selfcluster.errors import CheckpointError
from selfcluster.models.model import ClusterModel
from selfcluster.runs.atomic import sync_folder, write_atomically, write_synced
from selfcluster.settings.config import CHANGEABLE_ON_RESUME, Config, flatten

VERSION = 1


def save_checkpoint(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """The checkpoint is on the disk and is the last one; an earlier one survives whatever goes wrong here.

    Args:
        folder: the run's folder `checkpoints`.
        step: names the checkpoint.
        tensors: by part (model, method, ...) and name.
        state: anything JSON holds.
    Raises:
        CheckpointError: it could not be written, for want of space for instance.
    """
    target, partial = folder / str(step), folder / f".{step}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        files = {}
        for part, named in tensors.items():
            content = save({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
            files[f"{part}.safetensors"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            write_synced(partial / f"{part}.safetensors", content)
        write_synced(partial / "state.json", json.dumps({"version": VERSION, "step": step, "files": files, **state}, indent=1).encode())
        sync_folder(partial)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(partial, target)
        write_atomically(folder / "last.json", json.dumps({"step": step}).encode())
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write checkpoint {str(target)!r}: {error.strerror or error}; the previous checkpoint is kept. Make room and go on with --resume"
        ) from None
    for other in folder.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The last checkpoint's tensors, by part and name, and its state.

    Raises:
        CheckpointError: there is none, it is damaged (the file is named), or a newer version wrote it.
    """
    here, state = read_state(folder)
    tensors = {}
    for name, expected in state["files"].items():
        file = here / name
        try:
            content_is_whole = (
                file.stat().st_size == expected["bytes"] and hashlib.sha256(file.read_bytes()).hexdigest() == expected["sha256"]
            )
            if not content_is_whole:
                raise CheckpointError(
                    f"checkpoint file {str(file)!r} is damaged: size or hash differ from state.json; start again with --overwrite"
                )
            tensors[name.removesuffix(".safetensors")] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"cannot read checkpoint file {str(file)!r}: {error}; start again with --overwrite") from None
    return tensors, state


def read_state(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the last checkpoint and its state, without its tensors.

    Raises:
        CheckpointError: there is none, its JSON is damaged, or a newer version wrote it.
    """
    last = folder / "last.json"
    if not last.is_file():
        raise CheckpointError(f"no checkpoint in {str(folder)!r}: the run stopped before its first one; start again with --overwrite")
    here = folder / str(_read_json(last, "step")["step"])
    state = _read_json(here / "state.json", "version", "files")
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint {str(here)!r} has version {state.get('version')}, this selfcluster reads {VERSION}; use the one that wrote it"
        )
    return here, state


def _read_json(file: Path, *keys: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        if not set(keys) <= set(content):
            raise ValueError(f"it does not hold {' and '.join(keys)}")
        return content
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"checkpoint file {str(file)!r} is damaged: {error}; start again with --overwrite") from None


def save_network(folder: Path, config: Config[Any], model: ClusterModel, *, step: int = 0, epoch: int = 0, seconds: float = 0.0) -> None:
    """A checkpoint of the network alone is in the run folder: it can be loaded and trained from (`--init`), but not resumed.

    Args:
        folder, config, model: of the run.
        step, epoch, seconds: how long it was trained.
    """
    counts = {"epoch": epoch, "step_in_epoch": 0, "seconds": seconds}
    save_checkpoint(folder / "checkpoints", step, {"model": model.state_dict()}, {**counts, "broken": [], "settings": flatten(config)})


def require_resumable(folder: Path) -> None:
    """Raises CheckpointError where the last checkpoint holds the network alone, as `save_network` writes it."""
    if "optimizer.safetensors" not in read_state(folder / "checkpoints")[1]["files"]:
        raise CheckpointError(
            f"{str(folder)!r} holds a network without the state of its training, since it was imported or exported; train from it by --init {folder}"
        )


def check_settings(state: dict[str, Any], config: Config[Any]) -> None:
    """Raises CheckpointError where the checkpoint was written under other settings; the first is named."""
    for name, value in json.loads(json.dumps(flatten(config))).items():
        if name not in CHANGEABLE_ON_RESUME and state["settings"].get(name) != value:
            had = state["settings"].get(name)
            raise CheckpointError(f"the checkpoint is of another configuration: {name} was {had!r} and is {value!r}; restore config.toml")
