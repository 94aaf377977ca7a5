"""Rows extracted from the images of a rank, keyed by the image's index; in memory, or in a temporary file where they do not fit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from selfcluster.temporary import remove_with, reserve_file

_BLOCK = 4096
"""Rows processed at a time."""


@dataclass(frozen=True)
class Rows:
    """One row for each readable image of this rank."""

    index: NDArray[np.int64]
    """(n,), ascending positions in the data set; each image belongs to one rank."""
    values: NDArray[np.floating]
    """(n, ...), in memory or memory-mapped from a file."""


class RowsByIndex:
    """Collects rows by the index of their image, in any order.

    Args:
        index: images of this rank, ascending.
        memory_bytes: size above which the rows go to a file.
        folder: folder of that file, which is deleted when no longer in use; None for the system's.
        dtype: of the stored values.
    """

    def __init__(
        self, index: NDArray[np.int64], *, memory_bytes: float, folder: Path | None, dtype: type[np.floating] = np.float32
    ) -> None:
        self.index, self.memory_bytes, self.folder, self.dtype = index, memory_bytes, folder, np.dtype(dtype)
        self.values: NDArray[np.floating] | None = None
        self.is_there = np.zeros(len(index), dtype=bool)

    def put(self, index: NDArray[np.int64], values: Float[Tensor, "b ..."]) -> None:
        """Store the rows of these images."""
        if self.values is None:
            self.values = _array((len(self.index), *values.shape[1:]), self.dtype, self.memory_bytes, self.folder)
        at = np.searchsorted(self.index, index)
        self.values[at] = values.cpu().numpy()
        self.is_there[at] = True

    def stored(self, index: NDArray[np.int64]) -> NDArray[np.floating]:
        """Return the rows of these images, all of which have been stored."""
        assert self.values is not None
        return self.values[np.searchsorted(self.index, index)]

    def rows(self) -> Rows:
        """Return the rows stored so far, in the order of the index."""
        values = np.empty((0, 1), dtype=self.dtype) if self.values is None else self.values
        if self.is_there.all():
            return Rows(self.index, values)
        n = 0
        for at in np.split(np.flatnonzero(self.is_there), range(_BLOCK, int(self.is_there.sum()), _BLOCK)):
            values[n : n + len(at)] = values[at]
            n += len(at)
        return Rows(self.index[self.is_there], values[:n])


def map_rows(rows: Rows, function: Callable[[Tensor], Tensor], device: torch.device) -> Rows:
    """Apply a function to the rows, block by block; the result is in memory or in a file, as the rows are."""
    folder = Path(rows.values.filename).parent if isinstance(rows.values, np.memmap) and rows.values.filename else None
    mapped = RowsByIndex(rows.index, memory_bytes=0 if isinstance(rows.values, np.memmap) else np.inf, folder=folder)
    for start in range(0, max(1, len(rows.index)), _BLOCK):  # once for no rows too, so that the result has the right width
        block = slice(start, start + _BLOCK)
        mapped.put(rows.index[block], function(torch.from_numpy(np.array(rows.values[block])).to(device)))
    return mapped.rows()


def _array(shape: tuple[int, ...], dtype: np.dtype[np.floating], memory_bytes: float, folder: Path | None) -> NDArray[np.floating]:
    n_bytes = dtype.itemsize * math.prod(shape)
    if n_bytes <= memory_bytes:
        return np.empty(shape, dtype=dtype)
    file = reserve_file(n_bytes, suffix=".features", folder=folder)
    mapped = np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    if os.name == "posix":
        file.unlink()  # the map keeps its content, and nothing is left behind, however the run ends
    else:
        remove_with(mapped, file)
    return mapped
