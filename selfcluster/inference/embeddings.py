"""Embeddings of images in a file that other tools read: parquet, or .npy for the numbers alone.

Rows are written as they are made, so memory does not grow with the images. They wait in a file of plain float32 beside the
destination, which whoever starts the same command again goes on with; the destination appears when all of them are there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selfcluster.data.readers.labels import names_of
from selfcluster.data.sources import Data
from selfcluster.models.features import Layer
from selfcluster.runs.atomic import check_destination, write_atomically
from selfcluster.runs.log import say, telling
from selfcluster.runs.run import OpenRun

_ROWS = 8192
"""Of a group of the parquet file."""


@dataclass(frozen=True)
class Embedded:
    """What `write_embeddings` has written."""

    file: Path
    n: int
    n_unreadable: int
    width: int
    images_per_second: float
    """Of those that were embedded now."""


def write_embeddings(run: OpenRun, images: Any = None, *, out: str | Path, layer: Layer = "features", overwrite: bool = False) -> Embedded:
    """The embedding of each image is in a file, in the order of the data.

    Args:
        run: whose encoder.
        images: anything that `train` takes; None for the run's own.
        out: a `.parquet` (path, index, embedding as a fixed-size list of float32, label where there is one; no embedding where the image
            cannot be read) or a `.npy` (n, F) of float32 (NaN where it cannot).
        layer: "features" (the encoder's output) or "head" (z, of unit norm).
        overwrite: whether `out` may be there already.
    Raises:
        ConfigError: another ending, or `out` is there.
    """
    out = Path(out)
    check_destination(out, (".parquet", ".npy"), overwrite=overwrite)
    data = run.data(images)
    unfinished = _Unfinished(out, identity=_identity(run, data, layer))
    began, n_before, n = time.monotonic(), unfinished.n_rows, len(data.images)
    if n_before:
        say(f"going on at image {n_before:,} of {n:,}, where {str(unfinished.file)!r} ends")
    coming = run.stream(data.images, layer=layer, index=np.arange(n_before, n))
    with unfinished.file.open("ab") as file:
        for batch in telling(coming, "embedding", n, settings=run.config.run, done=n_before):
            unfinished.begin(batch.shape[1])
            file.write(batch.numpy().tobytes())
    seconds = time.monotonic() - began
    rows = unfinished.rows()
    n_unreadable = _write(rows, data, out)
    unfinished.remove()
    return Embedded(out, len(rows), n_unreadable, rows.shape[1], (len(rows) - n_before) / max(seconds, 1e-9))


def _identity(run: OpenRun, data: Data, layer: str) -> str:
    """Changes with the weights, the images and the layer."""
    digest = hashlib.sha256(f"{layer} {run.pixels} {data.images.digest()}".encode())
    for name, tensor in run.model.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Unfinished:
    """Rows that are there so far, and of what."""

    def __init__(self, out: Path, identity: str) -> None:
        self.file, self.note = (out.with_name(f".{out.name}.{what}") for what in ("unfinished", "unfinished.json"))
        self.identity, self.width = identity, 0
        if self.file.exists():
            self._go_on()

    def _go_on(self) -> None:
        note = json.loads(self.note.read_text()) if self.note.exists() else {}
        if note.get("identity") != self.identity:
            say(f"{str(self.file)!r} is of other images or weights, and begins anew")
            self.remove()
            return
        self.width = note["width"]
        # The row in which it was cut off is made again.
        os.truncate(self.file, 4 * self.width * self.n_rows)

    @property
    def n_rows(self) -> int:
        return self.file.stat().st_size // (4 * self.width) if self.width else 0

    def begin(self, width: int) -> None:
        """Rows are this wide."""
        if not self.width:
            self.width = width
            write_atomically(self.note, json.dumps({"identity": self.identity, "width": width}).encode())

    def rows(self) -> NDArray[np.float32]:
        return np.memmap(self.file, dtype=np.float32, mode="r").reshape(-1, self.width)

    def remove(self) -> None:
        for file in (self.file, self.note):
            file.unlink(missing_ok=True)


def _write(rows: NDArray[np.float32], data: Data, out: Path) -> int:
    """The destination is whole; the number of images that could not be read."""
    whole = out.with_name(f".{out.name}.whole")
    try:
        if out.suffix == ".npy":
            copy = np.lib.format.open_memmap(whole, mode="w+", dtype=np.float32, shape=rows.shape)
            for start in range(0, len(rows), _ROWS):
                copy[start : start + _ROWS] = rows[start : start + _ROWS]
            copy.flush()
            n_unreadable = sum(int(np.isnan(rows[start : start + _ROWS, 0]).sum()) for start in range(0, len(rows), _ROWS))
        else:
            n_unreadable = _write_parquet(rows, data, whole)
        os.replace(whole, out)
    finally:
        whole.unlink(missing_ok=True)
    return n_unreadable


def _write_parquet(rows: NDArray[np.float32], data: Data, file: Path) -> int:
    kind, paths, n_unreadable = pa.list_(pa.float32(), rows.shape[1]), data.images.paths(), 0
    labels = names_of(data.images.labels)
    fields = [("path", paths.type), ("index", pa.int64()), ("embedding", kind)] + ([("label", pa.string())] if labels is not None else [])
    with pq.ParquetWriter(file, pa.schema(fields), compression="zstd") as writer:
        for start in range(0, len(rows), _ROWS):
            part = np.array(rows[start : start + _ROWS])
            unreadable = np.isnan(part[:, 0])
            n_unreadable += int(unreadable.sum())
            embeddings = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), type=kind, mask=pa.array(unreadable))
            columns = [paths[start : start + _ROWS], pa.array(np.arange(start, start + len(part))), embeddings]
            columns += [labels[start : start + _ROWS]] if labels is not None else []
            writer.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)))
    return n_unreadable
