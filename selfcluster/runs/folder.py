"""The folder of a run: claimed for a new run, and read back as settings and network.

config.toml        every setting and its origin                data.parquet    see `manifest`
environment.json   see `environment`                           skipped.csv     images that could not be read, and why
metrics.jsonl      see `metrics`                               checkpoints/    see `checkpoint`
log.txt            see `log`                                   model/          the encoder, as timm loads it
features/          see `feature_cache`                         clusters.*      see `cluster_table`, `centroids`
evaluation*.json   see `results`                               report.html, export/
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from selfcluster import methods
from selfcluster.data.dataset import Data
from selfcluster.errors import CheckpointError
from selfcluster.models.model import ClusterModel
from selfcluster.paths import check_run
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.checkpoint import check_settings, load_checkpoint
from selfcluster.runs.environment import current_environment, write_environment
from selfcluster.runs.lock import LOCK, check_unlocked
from selfcluster.runs.manifest import write_manifest
from selfcluster.settings.config import Config, default_config, replace
from selfcluster.settings.resolve import ResolvedConfig
from selfcluster.settings.toml import read_toml, to_toml
from selfcluster.spreadsheets import with_texts_neutralized

_RUN_FILES = [
    "metrics.jsonl",
    "log.txt",
    "skipped.csv",
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
"""Files that a new run in the same folder deletes; it replaces the others."""
_WRITTEN_FIRST = frozenset(["environment.json", "data.parquet", ".environment.json.partial", ".config.toml.partial"])
"""What a run that was stopped before it had a config.toml leaves."""


def claim(out: str | Path | None, name: str, method: str, *, overwrite: bool) -> Path:
    """Return the folder of a new run; its contents are not touched yet.

    Args:
        out: the folder; None for the next free runs/<name>-<method>-<n>, which is created here, so that no other run takes it.
        name: name of the data.
        method: name of the method.
        overwrite: whether `out` may contain a run.
    Raises:
        CheckpointError: `out` contains a run, or files that are not a run's.
    """
    if out is None:
        return _next_free(Path("runs"), f"{name}-{method}")
    folder = Path(out)
    if folder.is_file():
        raise CheckpointError(f"{str(folder)!r} is a file; choose another --out")
    if not folder.exists() or not any(folder.iterdir()):
        return folder
    check_unlocked(folder)
    check_free(folder, overwrite=overwrite)
    return folder


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Check that a new run may have this folder.

    Raises:
        CheckpointError: it contains files that are not a run's; or a run, or what is left of one that was stopped before it began, and
            `overwrite` is off.
    """
    there = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
    is_run = "config.toml" in there
    if not is_run and not there <= _WRITTEN_FIRST:
        raise CheckpointError(f"{str(folder)!r} contains files that are not a run's; choose another --out")
    if there and not overwrite:
        found = (
            "already contains a run; use train --resume to continue one that is trained, or"
            if is_run
            else "contains a run that was stopped before it began; use"
        )
        raise CheckpointError(f"{str(folder)!r} {found} --overwrite to replace it")


def _next_free(parent: Path, name: str) -> Path:
    """Create the folder with the next free number, so that a run that starts at the same time gets another."""
    parent.mkdir(exist_ok=True)
    for n in itertools.count(1):
        with contextlib.suppress(FileExistsError):
            (parent / f"{name}-{n}").mkdir()
            break
    return parent / f"{name}-{n}"


def check_writable(folder: Path) -> None:
    """Check that the run folder can be written, before work is done for it; raise CheckpointError if not."""
    if not os.access(folder, os.W_OK):
        raise CheckpointError(f"no permission to write to run folder {str(folder)!r}; copy it to a folder of your own")


def prepare(folder: Path, resolved: ResolvedConfig, data: Data | None, *, imported_from: str = "") -> None:
    """Write what is known before training, and delete what an earlier run left; files that are not a run's stay.

    Args:
        folder: the run folder, created if need be.
        resolved: settings of the run and their origins.
        data: images of the run; None for an imported run, whose images are not known.
        imported_from: name of the file that the run is imported from, if any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*(folder / name for name in _RUN_FILES), *folder.glob("evaluation-*.json")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    write_environment(folder, current_environment(imported_from=imported_from))
    (folder / "data.parquet").unlink(missing_ok=True)
    if data is not None:
        write_manifest(folder, data, data.trained_on(resolved.config.data, resolved.config.run.seed))
    write_config(folder, resolved, data.where if data is not None else "")


def write_config(folder: Path, resolved: ResolvedConfig, images: str) -> None:
    """Write config.toml.

    Args:
        folder: the run folder.
        resolved: settings of the run and their origins.
        images: location of the images; "" for an array, or if it is not known.
    """
    write_atomically(folder / "config.toml", to_toml(resolved.config, resolved.origins, images=images).encode())


def read_config(folder: Path) -> tuple[Config[Any], str]:
    """Return the settings of a run and the location of its images ("" for an array, or if it is not known).

    Raises:
        CheckpointError: the folder is not a run.
    """
    check_run(folder)
    file = folder / "config.toml"
    content = read_toml(file)
    if content.method is None or content.images is None:
        raise CheckpointError(f"{str(file)!r} is damaged: the key 'method' or 'images' is missing; start a new run")
    return replace(default_config(content.method), content.settings), content.images


def read_model(folder: Path) -> tuple[Config[Any], str, ClusterModel]:
    """Return what `read_config` returns, and the network with the weights of the last checkpoint, on the CPU.

    Raises:
        CheckpointError: the folder is not a run, has no checkpoint yet, or is damaged.
    """
    config, images = read_config(folder)
    tensors, state = load_checkpoint(folder)
    check_settings(state, config)
    model = methods.build_model(replace(config, {"init": "random"}))
    model.load_state_dict(tensors["model"])
    return config, images, model


def write_skipped(folder: Path, broken: Mapping[int, str], data: Data) -> None:
    """Write skipped.csv: the images that could not be read and why, in the order of the data."""
    index, reasons = zip(*sorted(broken.items()), strict=True)
    table = pa.table({"path": data.images.paths().take(pa.array(index)), "reason": pa.array(reasons)})
    pa.csv.write_csv(with_texts_neutralized(table), folder / "skipped.csv")
