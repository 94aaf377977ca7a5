"""Embeddings of images: computed once, kept in the run's folder, and written for other tools as parquet or .npy.

features/<key>.f32    a row of float32 for each image: the encoder's features, then a thumbnail of a few pixels, by which copies are told
features/<key>.json   what they are of; the key follows weights, images and preparation

Rows that are kept are written as they are made, so memory does not grow with the images, and a command that was interrupted resumes where
it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from selfcluster.device import precision_of
from selfcluster.distributed import logger
from selfcluster.errors import known
from selfcluster.models.features import Layer
from selfcluster.runs.atomic import check_destination, write_atomically
from selfcluster.runs.log import with_progress
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
    n_computed: int = 0
    """Images that went through the encoder now; the others were kept from before."""
    seconds: float = 0.0
    """That they took."""


def embeddings_of(run: OpenRun, images: Images) -> Embeddings:
    """Return the features of images, read from the run's folder as far as they are kept there, and keep them there for next time.

    They are kept unless `keep_features` is off or the images are few and not the run's own; where the folder cannot be written, has no
    room, or another process is at the same work, a warning says so.
    """
    kept = KeptRows(run, images)
    if kept.is_whole():
        return _split(kept.rows())
    began, n = time.monotonic(), len(images)
    with kept.claimed() as is_ours:
        if not is_ours:
            rows = torch.cat(list(_rows(run, images))).numpy()
            return _split(rows, n, time.monotonic() - began)
        if kept.is_whole():  # since another process has just finished them
            return _split(kept.rows())
        n_before = kept.n_rows()
        if n_before:
            logger.info(f"resuming at image {n_before:,} of {n:,}")
        with kept.unfinished.open("ab") as file:
            for batch in _rows(run, images, n_before):
                file.write(batch.numpy().data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(kept.unfinished, kept.file)
    logger.info(f"features are kept in {kept.folder} ({kept.n_bytes / 1e6:,.1f} MB)")
    return _split(kept.rows(), n - n_before, time.monotonic() - began)


def kept_embeddings(run: OpenRun, images: Images) -> Embeddings | None:
    """Return the features of images where all of them are in the run's folder already."""
    kept = KeptRows(run, images)
    return _split(kept.rows()) if kept.is_whole() else None


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
        features = torch.from_numpy(embeddings_of(run, run.data(images).images).features)
        return np.ascontiguousarray(in_layer(run, features, layer).numpy())


@torch.no_grad()
def in_layer(run: OpenRun, features: Float[Tensor, "n f"], layer: Layer) -> Float[Tensor, "n d"]:
    """The features themselves, or what the head makes of them; in float32, as wherever assignments follow from it."""
    if layer == "features":
        return features
    return torch.cat([run.model.head(part.to(run.device)).float().cpu() for part in features.split(_ROWS)])


def _rows(run: OpenRun, images: Images, begin: int = 0) -> Iterator[Float[Tensor, "b _"]]:
    """Features and thumbnails from an image on; every image is read once."""
    coming = run.stream(images, index=np.arange(begin, len(images)), beside=thumbnails)
    return with_progress(coming, "embedding", len(images), settings=run.config.run, done=begin)


def _split(rows: NDArray[np.float32], n_computed: int = 0, seconds: float = 0.0) -> Embeddings:
    return Embeddings(rows[:, : -thumbnails.width], rows[:, -thumbnails.width :], n_computed, seconds)


class KeptRows:
    """The rows of some images in a run's folder, whole or unfinished.

    Args:
        run: whose encoder and folder.
        images: that the rows are of.
    """

    def __init__(self, run: OpenRun, images: Images) -> None:
        self.run, self.n, self.width = run, len(images), run.model.n_features + thumbnails.width
        self.folder = run.path / "features"
        self.is_on = run.config.run.keep_features and (self.n >= _FEW or run.is_own(images))
        if self.is_on:
            self.identity = {
                "weights": run.weights_digest,
                "images": images.fingerprint(),
                "pixels": run.pixels,
                "precision": str(precision_of(run.config, run.device)),
                "max_megapixels": run.config.data.max_megapixels,
                "width": self.width,
            }
            key = hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()[:16]
            self.file, self.note, self.unfinished, self.lock = (
                self.folder / f"{key}.{end}" for end in ("f32", "json", "unfinished", "lock")
            )

    @property
    def n_bytes(self) -> int:
        return 4 * self.n * self.width

    def is_whole(self) -> bool:
        """Whether every row is there."""
        return self.is_on and self.file.is_file() and self.file.stat().st_size == self.n_bytes

    def n_rows(self) -> int:
        """How many rows an interrupted command has left; a row in which it was cut off is made again."""
        if not self.unfinished.is_file():
            return 0
        n = self.unfinished.stat().st_size // (4 * self.width)
        os.truncate(self.unfinished, 4 * self.width * n)
        return n

    def rows(self) -> NDArray[np.float32]:
        """All rows; what is changed in them is not written."""
        return np.memmap(self.file, np.float32, mode="c", shape=(self.n, self.width))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Inside, whether this process may add rows; no other does meanwhile."""
        if not self.is_on:
            yield False
            return
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(exist_ok=True)
                is_ours = stack.enter_context(_locked(self.lock))
                why = self._why_not() if is_ours else "another process is computing the same ones"
                if why is None:
                    write_atomically(self.note, json.dumps({**self.identity, "n": self.n}, indent=1).encode())
            except OSError as error:
                why = f"{str(self.folder)!r} cannot be written ({error.strerror or error})"
            if why is not None:
                logger.warning(f"features are not kept: {why}")
            yield why is None

    def _why_not(self) -> str | None:
        """Why there is no room for the rows, once those of other weights are gone."""
        self._drop_those_of_other_weights()
        free = shutil.disk_usage(self.folder).free
        there = self.unfinished.stat().st_size if self.unfinished.is_file() else 0
        if free < 1.05 * (self.n_bytes - there):
            return f"they take {self.n_bytes / 1e6:,.0f} MB, and {str(self.folder)!r} has {free / 1e6:,.0f} MB of room"
        return None

    def _drop_those_of_other_weights(self) -> None:
        """Features of weights that have been trained on since are gone, but for those that a process is computing now."""
        for note in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError), _locked(note.with_suffix(".lock")) as is_ours:
                if is_ours and json.loads(note.read_text())["weights"] != self.run.weights_digest:
                    for end in (".f32", ".unfinished", ".json"):
                        note.with_suffix(end).unlink(missing_ok=True)


_FEW = 256
"""Images that are embedded in no time, so that nothing is kept of fewer, unless they are the run's own."""


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Inside, whether this process alone has the lock; where the system knows no locks, it is taken to have it."""
    with file.open("ab") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it until now has removed the file; another may have made it anew.
            is_ours = file.exists() and file.stat().st_ino == os.fstat(handle.fileno()).st_ino
        except BlockingIOError:
            is_ours = False
        except (ImportError, OSError):  # Windows, and file systems without locks
            is_ours = True
        try:
            yield is_ours
        finally:
            if is_ours:
                file.unlink(missing_ok=True)


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
    known(layer, ("features", "head"), "layer")
    data = run.data(images)
    found = embeddings_of(run, data.images)
    blocks = (found.features[start : start + _ROWS] for start in range(0, len(found.features), _ROWS))
    rows = (in_layer(run, torch.from_numpy(np.array(block)), layer).numpy() for block in blocks)
    n_unreadable, width = _write(rows, data, out)
    return EmbeddingsFile(out, len(found.features), n_unreadable, width, found.n_computed, found.seconds)


def _write(blocks: Iterator[NDArray[np.float32]], data: Data, out: Path) -> tuple[int, int]:
    """The destination is whole; how many images could not be read, and the width of the rows."""
    whole = out.with_name(f".{out.name}.whole")
    first = next(blocks)
    blocks = itertools.chain([first], blocks)
    try:
        write = _write_npy if out.suffix == ".npy" else _write_parquet
        n_unreadable = write(blocks, first.shape[1], data, whole)
        os.replace(whole, out)
    finally:
        whole.unlink(missing_ok=True)
    return n_unreadable, first.shape[1]


def _write_npy(blocks: Iterator[NDArray[np.float32]], width: int, data: Data, file: Path) -> int:
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(len(data.images), width))
    start, n_unreadable = 0, 0
    for block in blocks:
        rows[start : start + len(block)] = block
        start, n_unreadable = start + len(block), n_unreadable + int(np.isnan(block[:, 0]).sum())
    rows.flush()
    return n_unreadable


def _write_parquet(blocks: Iterator[NDArray[np.float32]], width: int, data: Data, file: Path) -> int:
    kind, paths, start, n_unreadable = pa.list_(pa.float32(), width), data.images.paths(), 0, 0
    labels = names_of(data.images.labels)
    fields = [("path", paths.type), ("index", pa.int64()), ("embedding", kind)] + ([("label", pa.string())] if labels is not None else [])
    with pq.ParquetWriter(file, pa.schema(fields), compression="zstd") as writer:
        for block in blocks:
            unreadable, part = np.isnan(block[:, 0]), slice(start, start + len(block))
            embeddings = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=kind, mask=pa.array(unreadable))
            columns = [paths[part], pa.array(np.arange(part.start, part.stop)), embeddings]
            columns += [labels[part]] if labels is not None else []
            writer.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)))
            start, n_unreadable = part.stop, n_unreadable + int(unreadable.sum())
    return n_unreadable
