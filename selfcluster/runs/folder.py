"""What a run leaves in its folder, and who may use it.

config.toml        every setting and where it came from        data.parquet    every path, and whether it was trained on
environment.json   command, versions, machine                  skipped.csv     what could not be read, and why
metrics.jsonl      rows of figures                             checkpoints/    see `checkpoint`
log.txt            what was said                               model/          the encoder, as timm loads it
features/          see `embeddings`                            clusters.*      see `clusters`
evaluation*.json   see `results`                               report.html, export/
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from selfcluster import distributed, methods
from selfcluster.data.sources import Data
from selfcluster.errors import CheckpointError, DataError
from selfcluster.models.model import ClusterModel
from selfcluster.runs import checkpoint
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.checkpoint import load_checkpoint
from selfcluster.settings.config import Config, default_config, replace
from selfcluster.settings.resolve import ResolvedConfig
from selfcluster.settings.toml import read_toml, to_toml

_OWN_FILES = [
    "config.toml",
    "environment.json",
    "metrics.jsonl",
    "log.txt",
    "skipped.csv",
    "data.parquet",
    "evaluation.json",
    "clusters.parquet",
    "clusters.json",
    "clusters.safetensors",
    "report.html",
    "features",
    "export",
    "model",
    "checkpoints",
]


def claim(out: str | Path | None, name: str, method: str, *, overwrite: bool) -> Path:
    """The folder of a new run, which is free or may be overwritten; nothing in it is touched yet.

    Raises:
        CheckpointError: it is in use, or is no run's.
    """
    if out is None:
        return _next_free(Path("runs"), f"{name}-{method}")
    folder = Path(out)
    if folder.is_file():
        raise CheckpointError(f"{str(folder)!r} is a file; choose another --out")
    if not folder.exists() or not any(folder.iterdir()):
        return folder
    if not (folder / "config.toml").is_file():
        raise CheckpointError(f"{str(folder)!r} holds files that are not a run's; choose another --out")
    if not overwrite:
        raise CheckpointError(f"{str(folder)!r} holds a run already; go on with it by --resume, or replace it by --overwrite")
    return folder


def _next_free(parent: Path, name: str) -> Path:
    """A folder of the next free number, made here, so that a run that starts at the same time takes another."""
    parent.mkdir(exist_ok=True)
    for n in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (parent / f"{name}-{n}").mkdir()
            break
    return parent / f"{name}-{n}"


def check_writable(folder: Path) -> None:
    """Raises CheckpointError where the run's folder may not be written, before work is done for it."""
    if not os.access(folder, os.W_OK):
        raise CheckpointError(f"run folder {str(folder)!r} may not be written; copy it to a place of yours")


def prepare(folder: Path, resolved: ResolvedConfig, data: Data | None, *, imported_from: str = "") -> None:
    """The folder holds what is known before training, and nothing of an earlier run; files that are not a run's stay.

    Args:
        folder, resolved: of the run.
        data: its images; None for a run that was trained elsewhere, on images that are not known here.
        imported_from: name of the file that the weights were imported from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*(folder / name for name in _OWN_FILES), *folder.glob("evaluation-*.json")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    environment = {
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "ranks": distributed.n_ranks(),
        "versions": {name: version(name) for name in ("selfcluster", "torch", "torchvision", "timm", "numpy")},
        **({"imported_from": imported_from} if imported_from else {}),
    }
    write_atomically(folder / "environment.json", json.dumps(environment, indent=1).encode())
    if data is not None:
        _write_data(folder, resolved.config, data)
    images = data.where if data is not None else ""
    write_atomically(folder / "config.toml", to_toml(resolved.config, resolved.origins, images=images).encode())


def _write_data(folder: Path, config: Config[Any], data: Data) -> None:
    """data.parquet: every image's path and side of the split, and the digest of them all."""
    trains = np.zeros(len(data.images), dtype=bool)
    trains[data.trained_on(config.data, config.run.seed)] = True
    columns = {"path": data.images.paths(), "trained_on": trains}
    contents = pa.table(columns).replace_schema_metadata({"digest": data.images.digest()})
    pq.write_table(contents, folder / "data.parquet", compression="zstd")


def read_config(folder: Path) -> tuple[Config[Any], str]:
    """The run's settings, and where its images were ("" for an array).

    Raises:
        CheckpointError: the folder is no run's.
    """
    if not (folder / "config.toml").is_file():
        raise CheckpointError(f"{str(folder)!r} is not a run folder: it holds no config.toml")
    top, settings = read_toml(folder / "config.toml")
    if not {"method", "images"} <= top.keys():
        raise CheckpointError(f"{str(folder / 'config.toml')!r} is damaged: it names no method or no images")
    return replace(default_config(top["method"]), settings), top["images"]


def read_model(folder: Path) -> tuple[Config[Any], str, ClusterModel]:
    """The run's settings, where its images were ("" where nobody knows), and its network with the weights of the last checkpoint, on the CPU.

    Raises:
        CheckpointError: it is no run, has no checkpoint yet, or is damaged.
    """
    config, images = read_config(folder)
    tensors, state = load_checkpoint(folder / "checkpoints")
    checkpoint.check_settings(state, config)
    model = methods.build_model(replace(config, {"init": "random"}))
    model.load_state_dict(tensors["model"])
    return config, images, model


def has_data(folder: Path) -> bool:
    """Whether the run knows the images that it was trained on; a run that was imported or exported does not."""
    return (folder / "data.parquet").is_file()


def read_trained_on(folder: Path) -> NDArray[np.int64]:
    """Indices of the images that the run was trained on; the others were kept out."""
    return np.flatnonzero(_read_data(folder)["trained_on"].to_numpy())


def _read_data(folder: Path) -> pa.Table:
    if not has_data(folder):
        raise CheckpointError(
            f"{str(folder)!r} holds no data.parquet: a run that was imported or exported knows no images of its own; give the images (DATA)"
        )
    try:
        return pq.read_table(folder / "data.parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointError(f"cannot read {str(folder / 'data.parquet')!r}: {' '.join(str(error).split())}") from None


def read_digest(folder: Path) -> str:
    """The digest of the images that the run was trained on."""
    return _read_data(folder).schema.metadata[b"digest"].decode()


def check_same_data(folder: Path, data: Data) -> None:
    """The data is what it was when the run began.

    Raises:
        DataError: images were added, lost or renamed (three are named), or have changed.
    """
    stored = _read_data(folder)
    if read_digest(folder) == data.images.digest():
        return
    before, now = stored["path"].combine_chunks(), data.images.paths()
    lost, added = (one.filter(pc.invert(pc.is_in(one, other))) for one, other in ((before, now), (now, before)))
    named = [f"-{path}" for path in lost[:3].to_pylist()] + [f"+{path}" for path in added[:3].to_pylist()]
    what = f"{len(lost):,} images lost and {len(added):,} added ({', '.join(named[:3])})" if named else "the images themselves have changed"
    raise DataError(f"the data of {str(folder)!r} is not what it was: {what}; restore it, or start a new run")


def write_skipped(folder: Path, broken: Mapping[int, str], data: Data) -> None:
    """skipped.csv lists the images that could not be read, in the order of the data."""
    index, reasons = zip(*sorted(broken.items()), strict=True)
    pa.csv.write_csv(pa.table({"path": data.images.paths().take(pa.array(index)), "reason": pa.array(reasons)}), folder / "skipped.csv")
