"""Embeddings of images: computed once, kept in the run's folder, and written for other tools as parquet or .npy.

features/<key>.f32    a row of float32 for each image: the encoder's features, then a thumbnail of a few pixels, by which copies are told
features/<key>.json   what they are of; the key follows weights, images and preparation

Rows are written as they are made, so memory does not grow with the images, and a command that was interrupted resumes where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import distributed
from selfcluster.clustering.duplicates import thumbnails
from selfcluster.data.readers.images import Images
from selfcluster.data.readers.labels import names_of
from selfcluster.data.sources import Data
from selfcluster.errors import known
from selfcluster.models.features import Layer
from selfcluster.runs.atomic import check_destination
from selfcluster.runs.log import say, telling
from selfcluster.runs.run import OpenRun

_ROWS = 8192
"""Rows that are worked on at a time."""


@dataclass(frozen=True)
class Embeddings:
    """What an encoder makes of images, in their order."""

    features: Float[NDArray[np.float32], "n f"]
    """Of the encoder; NaN where an image cannot be read."""
    thumbnails: Float[NDArray[np.float32], "n t"]
    """A few pixels of each image; see `duplicates.thumbnails`."""
    n_computed: int
    """Images that went through the encoder now; the others were kept from before."""
    seconds: float
    """That they took."""


def embeddings_of(run: OpenRun, images: Images) -> Embeddings:
    """The features of images, from the run's folder as far as they are kept there, and kept there for next time.

    They are kept unless `keep_features` is off, the folder cannot be written, or there is no room; the last two are said.
    """
    kept = KeptRows(run, images)
    if kept.is_whole():
        return _split(kept.rows(), n_computed=0, seconds=0.0)
    began = time.monotonic()
    with kept.claimed() as file:
        if file is None:
            rows = torch.cat(list(_rows(run, images))).numpy()
            return _split(rows, n_computed=len(rows), seconds=time.monotonic() - began)
        if kept.is_whole():  # since another process has just finished them
            return _split(kept.rows(), n_computed=0, seconds=0.0)
        n_before = kept.n_rows()
        if n_before:
            say(f"resuming at image {n_before:,} of {len(images):,}")
        for batch in _rows(run, images, n_before):
            file.write(batch.numpy().data)
        kept.finish(file)
    return _split(kept.rows(), n_computed=len(images) - n_before, seconds=time.monotonic() - began)


def kept_embeddings(run: OpenRun, images: Images) -> Embeddings | None:
    """The features of images where all of them are in the run's folder already."""
    kept = KeptRows(run, images)
    return _split(kept.rows(), n_computed=0, seconds=0.0) if kept.is_whole() else None


def embed(run: OpenRun, images: Any = None, *, layer: Layer = "features") -> Float[NDArray[np.float32], "n _"]:
    """Return a row for each image, in the order of the data.

    Args:
        run: whose encoder.
        images: anything that `train` takes; None for the run's own.
        layer: "features" (the encoder's output) or "head" (z, of unit norm; DeepCluster has no head, so there it is the same).
    Returns:
        float32; rows of images that cannot be read are NaN.
    """
    known(layer, ("features", "head"), "layer")
    with distributed.alone():
        return in_layer(run, torch.from_numpy(embeddings_of(run, run.data(images).images).features), layer).numpy()


@torch.no_grad()
def in_layer(run: OpenRun, features: Float[Tensor, "n f"], layer: Layer) -> Float[Tensor, "n d"]:
    """The features themselves, or what the head makes of them; in float32, as wherever assignments follow from it."""
    if layer == "features":
        return features
    return torch.cat([run.model.head(part.to(run.device)).float().cpu() for part in features.split(_ROWS)])


def _rows(run: OpenRun, images: Images, begin: int = 0) -> Iterator[Float[Tensor, "b _"]]:
    """Features and thumbnails from an image on; every image is read once."""
    coming = run.stream(images, index=np.arange(begin, len(images)), beside=thumbnails)
    return telling(coming, "embedding", len(images), settings=run.config.run, done=begin)


def _split(rows: NDArray[np.float32], *, n_computed: int, seconds: float) -> Embeddings:
    return Embeddings(rows[:, : -thumbnails.width], rows[:, -thumbnails.width :], n_computed, seconds)


class KeptRows:
    """The rows of some images in a run's folder, whole or unfinished.

    Args:
        run: whose encoder and folder.
        images: that the rows are of.
    """

    def __init__(self, run: OpenRun, images: Images) -> None:
        self.run, self.n, self.width = run, len(images), run.model.n_features + thumbnails.width
        self.is_on = run.config.run.keep_features and (run.path / "config.toml").is_file()
        if self.is_on:
            self.identity = {"weights": run.weights_digest, "images": images.fingerprint(), "pixels": run.pixels, "width": self.width}
            key = hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()[:16]
            self.file, self.note, self.unfinished = (run.path / "features" / f"{key}.{end}" for end in ("f32", "json", "unfinished"))

    @property
    def n_bytes(self) -> int:
        return 4 * self.n * self.width

    def is_whole(self) -> bool:
        """Whether every row is there."""
        return self.is_on and self.file.is_file() and self.file.stat().st_size == self.n_bytes

    def n_rows(self) -> int:
        """How many rows an interrupted command has left; a row in which it was cut off is made again."""
        n = self.unfinished.stat().st_size // (4 * self.width)
        os.truncate(self.unfinished, 4 * self.width * n)
        return n

    def rows(self) -> NDArray[np.float32]:
        """All rows; what is changed in them is not written."""
        return np.memmap(self.file, np.float32, mode="c", shape=(self.n, self.width))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[BinaryIO | None]:
        """The unfinished file to add rows to, or None where they cannot be kept."""
        if not self.is_on or (why := self._why_not()) is not None:
            if self.is_on:
                say(f"features are not kept: {why}")
            yield None
            return
        self.unfinished.parent.mkdir(exist_ok=True)
        self.note.write_text(json.dumps({**self.identity, "n": self.n, "features": self.run.model.n_features}, indent=1))
        with self.unfinished.open("ab") as file:
            if not _is_ours_alone(file):
                say("features are not kept: another process is computing the same ones")
                yield None
                return
            yield file

    def _why_not(self) -> str | None:
        if not os.access(self.run.path, os.W_OK):
            return f"run folder {str(self.run.path)!r} cannot be written"
        free = shutil.disk_usage(self.run.path).free
        there = self.unfinished.stat().st_size if self.unfinished.is_file() else 0
        if free < 1.05 * (self.n_bytes - there):
            return f"they take {self.n_bytes / 1e6:,.0f} MB, and {str(self.run.path)!r} has {free / 1e6:,.0f} MB of room"
        return None

    def finish(self, file: BinaryIO) -> None:
        """The rows are whole; those of weights that have been trained on since are gone."""
        file.flush()
        os.fsync(file.fileno())
        os.replace(self.unfinished, self.file)
        for note in self.note.parent.glob("*.json"):
            if f'"{self.run.weights_digest}"' not in note.read_text():
                for end in (".json", ".f32", ".unfinished"):
                    note.with_suffix(end).unlink(missing_ok=True)
        say(f"features are kept in {self.note.parent} ({self.n_bytes / 1e6:,.1f} MB)")


def _is_ours_alone(file: BinaryIO) -> bool:
    """Whether this process alone adds to the file, as far as the system can tell."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------ for other tools


@dataclass(frozen=True)
class EmbeddingsFile:
    """What `write_embeddings` has written."""

    file: Path
    n: int
    n_unreadable: int
    width: int
    n_computed: int
    """Images that went through the encoder now."""
    seconds: float
    """That they took."""


def write_embeddings(
    run: OpenRun, images: Any = None, *, out: str | Path, layer: Layer = "features", overwrite: bool = False
) -> EmbeddingsFile:
    """Write the embedding of each image to a file, in the order of the data.

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
    found = embeddings_of(run, data.images)
    rows = in_layer(run, torch.from_numpy(found.features), layer).numpy()
    n_unreadable = _write(rows, data, out)
    return EmbeddingsFile(out, len(rows), n_unreadable, rows.shape[1], found.n_computed, found.seconds)


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
