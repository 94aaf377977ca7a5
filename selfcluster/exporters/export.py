"""A run's network for others: timm, torchvision, ONNX, the Hugging Face hub, or whole for selfcluster itself.

Every export is a folder that is written whole or not at all, and only after what it holds has been read again and compared.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from selfcluster.errors import CheckpointError, ConfigError, known
from selfcluster.exporters import hub, onnx_graph, run_folder, timm_folder, torchvision_weights
from selfcluster.exporters.verification import Difference, Source, plain_copy
from selfcluster.models.features import Layer
from selfcluster.runs.atomic import folder_written_whole
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import Config


class Format(Protocol):
    """What each format's module holds."""

    FILES: tuple[str, ...]
    """Everything that it may write, and what evaluation adds; patterns of names."""

    def check(self, config: Config[Any], /) -> None:
        """Raises ConfigError where the format cannot hold the network, or something is missing here; nothing is built before."""

    def write(self, folder: Path, source: Source, /) -> Difference:
        """The folder holds the network in this format; it has been read again and compared."""

    def notes(self, source: Source, /) -> tuple[str, ...]:
        """What the user has to know."""

    def next_step(self, path: Path, source: Source, /) -> str:
        """The line that ends the output, ready to paste."""


FORMATS: dict[str, Format] = {
    "timm": timm_folder,
    "torchvision": torchvision_weights,
    "onnx": onnx_graph,
    "hub": hub,
    "whole": run_folder,
}


@dataclass(frozen=True)
class ExportResult:
    """What was written, and what should be said about it."""

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
    layer: Layer = "features",
    overwrite: bool = False,
) -> ExportResult:
    """The network in a form that others read, checked against the run.

    Args:
        run: whose network.
        format: timm, torchvision, onnx, hub or whole.
        out: folder to write; None for export/<format> in the run's folder.
        layer: what an ONNX graph gives, "features" (the encoder's output) or "head" (z, of unit norm).
        overwrite: replace an export that is there.
    Returns:
        where it is, how far its output is from the run's, and how to load it.
    Raises:
        ConfigError: an unknown format or layer, a network that the format cannot hold, a missing extra, or a folder that cannot be written.
        CheckpointError: the folder is in use, or what was written does not give the run's features.
    """
    form = FORMATS[known(format, FORMATS, "format")]
    known(layer, ("features", "head"), "layer")
    if layer == "head" and format != "onnx":
        raise ConfigError(
            f"format {format!r} has no --layer head; use --format onnx for the head alone, or --format whole for all of the network"
        )
    target = Path(out).expanduser() if out is not None else run.path / "export" / (f"{format}-head" if layer == "head" else format)
    _claim(target, form.FILES, overwrite=overwrite)
    form.check(run.config)
    source = Source(run.path, run.config, plain_copy(run.model, run.config), layer)
    try:
        with folder_written_whole(target) as partial:
            found = form.write(partial, source)
            written = tuple(sorted(file.relative_to(partial).as_posix() for file in partial.rglob("*") if file.is_file()))
    except OSError as error:
        raise ConfigError(f"cannot write {str(target)!r}: {error.strerror or error}; choose another --out, or make room") from None
    return ExportResult(target, written, found, form.notes(source), form.next_step(target, source))


def _claim(target: Path, files: tuple[str, ...], *, overwrite: bool) -> None:
    """The folder may be written.

    Raises:
        ConfigError: its name is that of a file.
        CheckpointError: it is in use, by an export that may not be replaced or by something else.
    """
    if target.suffix in (".onnx", ".safetensors", ".pt", ".pth"):
        raise ConfigError(
            f"--out {str(target)!r} is named like a file, and an export is a folder; use --out {shlex.quote(str(target.with_suffix('')))}"
        )
    if target.resolve() == Path.cwd():
        raise ConfigError(f"--out {str(target)!r} is the folder you are in, which cannot be put in place as a whole; name one inside it")
    if target.is_file():
        raise CheckpointError(f"{str(target)!r} is a file; choose another --out")
    there = {entry.name for entry in target.iterdir()} if target.is_dir() else set()
    if others := sorted(name for name in there if not any(fnmatch(name, pattern) for pattern in files)):
        raise CheckpointError(f"{str(target)!r} holds {others[0]!r}, which is no part of such an export; choose another --out")
    if there and not overwrite:
        raise CheckpointError(f"{str(target)!r} holds an export already; replace it by --overwrite, or choose another --out")
