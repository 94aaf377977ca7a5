"""Export of a run's network: for timm, torchvision, ONNX or the Hugging Face hub, or as a run folder for selfcluster.

Every export is a folder that is written atomically, and only after it has been loaded again and compared with the run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol, get_args

from selfcluster.errors import CheckpointError, ConfigError, known
from selfcluster.exporters import hub, onnx_graph, run_folder, timm_folder, torchvision_weights
from selfcluster.exporters.verification import Difference, Source, plain_copy
from selfcluster.formatting import command
from selfcluster.inference.clusters import current_centroids
from selfcluster.runs.atomic import folder_written_whole
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import ExportLayer
from selfcluster.settings.config import Config


class Format(Protocol):
    """The module of a format."""

    FILES: tuple[str, ...]
    """Patterns of the names of all files that it may write."""

    def write(self, folder: Path, source: Source, /) -> Difference:
        """Write the network in this format, load it again, and return how far it differs."""

    def notes(self, source: Source, /) -> tuple[str, ...]:
        """Return what the user has to know."""

    def next_step(self, path: Path, source: Source, /) -> str:
        """Return the last line of the output: code or a command, ready to paste."""


FORMATS: dict[str, Format] = {
    "timm": timm_folder,
    "torchvision": torchvision_weights,
    "onnx": onnx_graph,
    "hub": hub,
    "whole": run_folder,
}
CHECKS: dict[str, Callable[[Config[Any]], None]] = {"torchvision": torchvision_weights.check, "onnx": onnx_graph.check}
"""Raise ConfigError if the format cannot represent the network, or a dependency is missing; the other formats represent every network."""


@dataclass(frozen=True)
class ExportResult:
    """A finished export."""

    path: Path
    files: tuple[str, ...]
    difference: Difference
    notes: tuple[str, ...]
    next_step: str

    def __repr__(self) -> str:
        return f"ExportResult({str(self.path)!r}, {len(self.files)} files)"

    def __str__(self) -> str:
        return "\n".join([f"wrote {self.path}: {', '.join(self.files)}; {self.difference}", *self.notes, self.next_step])


def export(
    run: OpenRun,
    format: str,
    *,
    out: str | Path | None = None,
    layer: ExportLayer = "features",
    overwrite: bool = False,
) -> ExportResult:
    """Write the run's network in another format and check it against the run.

    Args:
        run: the run to export.
        format: timm, torchvision, onnx, hub or whole.
        out: folder to write; None for export/<format> in the run's folder.
        layer: output, "features" (the encoder's output); for onnx also "head" (z, of unit norm); for onnx and timm also "clusters" (a score
            for each cluster in the run's folder; the largest is that of `assign`).
        overwrite: whether to replace an existing export.
    Returns:
        where it is, how far its output differs from the run's, and how to load it.
    Raises:
        ConfigError: an unknown format or layer, a network that the format cannot represent, a missing extra, or a folder that cannot be written.
        CheckpointError: the folder is in use, or the export does not reproduce the run's features.
    """
    form = FORMATS[known(format, FORMATS, "format")]
    known(layer, get_args(ExportLayer), "layer")
    if layer == "head" and format != "onnx":
        raise ConfigError(
            f"format {format!r} does not support --layer head; use --format onnx for the head's output, or --format whole for the whole network"
        )
    if layer == "clusters" and format not in ("onnx", "timm"):
        raise ConfigError(f"format {format!r} does not support --layer clusters; use --format onnx or --format timm")
    target = Path(out).expanduser() if out is not None else run.path / "export" / (format if layer == "features" else f"{format}-{layer}")
    _check_target(target, form.FILES, overwrite=overwrite)
    if format in CHECKS:
        CHECKS[format](run.config)
    centroids = current_centroids(run) if layer == "clusters" else None
    if format == "timm" and centroids is not None and centroids.layer == "head":
        raise ConfigError(
            f"these clusters are compared by the head's output, which a timm model does not have; use --format onnx, or cluster the features: {command('cluster', run.path, '--k', 'auto')}"
        )
    source = Source(run.path, run.config, plain_copy(run.model, run.config), layer, centroids)
    try:
        with folder_written_whole(target) as partial:
            found = form.write(partial, source)
            written = tuple(sorted(file.relative_to(partial).as_posix() for file in partial.rglob("*") if file.is_file()))
    except OSError as error:
        raise ConfigError(f"cannot write {str(target)!r}: {error.strerror or error}; choose another --out, or free some space") from None
    return ExportResult(target, written, found, form.notes(source), form.next_step(target, source))


def _check_target(target: Path, files: tuple[str, ...], *, overwrite: bool) -> None:
    """Check that the folder may be written.

    Raises:
        ConfigError: it is named like a file, or is the current folder.
        CheckpointError: it contains an export that may not be replaced, or other files.
    """
    if target.suffix in (".onnx", ".safetensors", ".pt", ".pth"):
        raise ConfigError(
            f"--out {str(target)!r} is named like a file, but an export is a folder; use --out {shlex.quote(str(target.with_suffix('')))}"
        )
    if target.resolve() == Path.cwd():
        raise ConfigError(f"--out {str(target)!r} is the current folder, which cannot be replaced; choose a folder inside it")
    if target.is_file():
        raise CheckpointError(f"{str(target)!r} is a file; choose another --out")
    names = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if others := sorted(name for name in names if not any(fnmatch(name, pattern) for pattern in files)):
        raise CheckpointError(
            f"{str(target)!r} contains {others[0]!r}, which is not part of an export of this format; choose another --out"
        )
    if names and not overwrite:
        raise CheckpointError(f"{str(target)!r} already contains an export; use --overwrite to replace it, or choose another --out")
