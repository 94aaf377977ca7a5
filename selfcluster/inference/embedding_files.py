"""Embeddings written for other tools, as parquet or .npy."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from selfcluster.data.dataset import Data
from selfcluster.data.readers.labels import names_of
from selfcluster.errors import known
from selfcluster.inference.embeddings import ROWS, embeddings_of, in_layer
from selfcluster.runs.atomic import check_destination
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import Layer


@dataclass(frozen=True)
class EmbeddingsFile:
    """The file that `write_embeddings` wrote."""

    file: Path
    n: int
    n_unreadable: int
    width: int
    n_computed: int
    """Images that went through the encoder; the others were cached."""
    seconds: float
    """Time that they took."""


def write_embeddings(
    run: OpenRun, images: Any = None, *, out: str | Path, layer: Layer = "features", overwrite: bool = False
) -> EmbeddingsFile:
    """Write the embedding of each image to a file, in the order of the data.

    Args:
        run: provides the encoder.
        images: anything that `train` accepts; None for the run's own.
        out: a `.parquet` (path, index, embedding as a fixed-size list of float32, NaN for an unreadable image, and label if labels are
            known) or a `.npy` (n, F) of float32 (NaN for an unreadable image).
        layer: "features" (the encoder's output) or "head" (z, of unit norm).
        overwrite: replace an existing `out`.
    Raises:
        ConfigError: another ending, or `out` exists.
    """
    out = Path(out)
    check_destination(out, (".parquet", ".npy"), overwrite=overwrite)
    known(layer, ("features", "head"), "layer")
    data = run.data(images)
    found = embeddings_of(run, data.images)
    parts = (found.features[start : start + ROWS] for start in range(0, len(found.features), ROWS))
    blocks = (in_layer(run, torch.from_numpy(np.array(part)), layer).numpy() for part in parts)
    first = next(blocks)
    partial, width = out.with_name(f".{out.name}.partial"), first.shape[1]
    write = _write_npy if out.suffix == ".npy" else _write_parquet
    try:
        n_unreadable = write(itertools.chain([first], blocks), width, data, partial)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    return EmbeddingsFile(out, len(found.features), n_unreadable, width, found.n_computed, found.seconds)


def _write_npy(blocks: Iterator[np.ndarray], width: int, data: Data, file: Path) -> int:
    """Write the rows and return the number of unreadable images."""
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(len(data.images), width))
    start, n_unreadable = 0, 0
    for block in blocks:
        rows[start : start + len(block)] = block
        start, n_unreadable = start + len(block), n_unreadable + int(np.isnan(block[:, 0]).sum())
    rows.flush()
    return n_unreadable


def _write_parquet(blocks: Iterator[np.ndarray], width: int, data: Data, file: Path) -> int:
    """Write the rows and return the number of unreadable images."""
    kind, paths, start, n_unreadable = pa.list_(pa.float32(), width), data.images.paths(), 0, 0
    labels = names_of(data.images.labels)
    fields = [("path", paths.type), ("index", pa.int64()), ("embedding", kind)] + ([("label", pa.string())] if labels is not None else [])
    with pq.ParquetWriter(file, pa.schema(fields), compression="zstd") as writer:
        for block in blocks:
            unreadable, part = np.isnan(block[:, 0]), slice(start, start + len(block))
            # NaN, not null: pyarrow before 26 cannot write or read a file with lists that are null.
            embeddings = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), type=kind)
            columns = [paths[part], pa.array(np.arange(part.start, part.stop)), embeddings]
            columns += [labels[part]] if labels is not None else []
            writer.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)))
            start, n_unreadable = part.stop, n_unreadable + int(unreadable.sum())
    return n_unreadable
