"""Checkpoints that are written whole or not at all: safetensors and readable JSON, never pickle.

checkpoints/<step>/model.safetensors, method.safetensors, optimizer.safetensors, plan.safetensors
checkpoints/<step>/state.json      last: counts, list of broken images, and the size and sha256 of each file above
checkpoints/last.json              swapped in when all that is on the disk; older checkpoints go after that
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from selfcluster.errors import CheckpointError

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
            _write(partial / f"{part}.safetensors", content)
        _write(partial / "state.json", json.dumps({"version": VERSION, "step": step, "files": files, **state}, indent=1).encode())
        _sync_folder(partial)
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


def write_atomically(file: Path, content: bytes) -> None:
    """The file holds the content, or, if anything goes wrong, what it held before."""
    partial = file.with_name(f".{file.name}.partial")
    _write(partial, content)
    os.replace(partial, file)
    _sync_folder(file.parent)


@contextlib.contextmanager
def folder_written_whole(target: Path) -> Iterator[Path]:
    """Inside, an empty folder to fill; afterwards it stands in the target's place, or, if anything goes wrong, nothing has changed.

    Args:
        target: what stands there goes only when the new folder is on the disk.
    """
    target = target.resolve()
    new, old = (target.with_name(f".{target.name}.{os.getpid()}.{what}") for what in ("partial", "replaced"))
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        new.mkdir(parents=True)
        yield new
        for file in new.rglob("*"):
            if file.is_file():
                _sync(file)
        _sync_folder(new)
        if target.exists():
            os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            if old.exists():
                os.rename(old, target)
            raise
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise
    _sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def _sync(file: Path) -> None:
    with file.open("r+b") as there:
        os.fsync(there.fileno())


def _sync_folder(folder: Path) -> None:
    """A new name in a folder is on the disk only when the folder is; Windows has no such call and needs none."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
