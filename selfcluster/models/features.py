"""From images to features: eval mode, no augmentation, one row an image, scattered by index."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from selfcluster.data.crops import normalize, resize_center
from selfcluster.data.readers.images import Images
from selfcluster.device import Map, in_threads
from selfcluster.errors import DataError

Layer = Literal["features", "head"]

ProgressCallback = Callable[[int], object]
"""Told after each batch how many images have been looked at."""


def _unseen(n: int) -> None:
    pass


class _Centered(Dataset):
    """Runs in the workers: images prepared for evaluation, batch by batch, with a flag for each that could be read."""

    def __init__(self, images: Images, index: NDArray[np.int64], pixels: int, batch: int, each: Map) -> None:
        self.images, self.index, self.pixels, self.batch, self.each = images, index, pixels, batch, each

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch)

    def __getitem__(self, part: int) -> tuple[Tensor, Tensor]:
        mine = self.index[part * self.batch : (part + 1) * self.batch]
        if self.images.in_memory:
            return self._from_array(mine), torch.ones(len(mine), dtype=torch.bool)
        prepared, readable = torch.zeros(len(mine), 3, self.pixels, self.pixels, dtype=torch.uint8), torch.ones(len(mine), dtype=torch.bool)

        def prepare(row: int) -> None:
            try:
                prepared[row] = resize_center(self.images.decode(int(mine[row]), self._least).pixels, self.pixels)
            except DataError:
                readable[row] = False

        for _ in self.each(prepare, range(len(mine))):
            pass
        return prepared, readable

    def _least(self, height: int, width: int) -> float:
        return self.pixels / min(height, width)

    def _from_array(self, index: NDArray[np.int64]) -> Tensor:
        images = self.images.take(index)
        return torch.stack([resize_center(image, self.pixels) for image in images])


def prepared_images(
    images: Images, *, index: NDArray[np.int64] | None = None, pixels: int, batch: int = 256, workers: int = 0, threads: int = 1
) -> DataLoader:
    """Batches of (uint8 images of `pixels` a side, which of them could be read), in the order of the index."""
    index = np.arange(len(images)) if index is None else np.asarray(index)
    each = map if workers or images.in_memory else in_threads(threads)
    return DataLoader(_Centered(images, index, pixels, batch, each), batch_size=None, num_workers=workers, collate_fn=_as_is)


def _as_is(item: object) -> object:
    return item


def stream_features(
    encoder: Callable[[Tensor], Tensor],
    images: Images,
    *,
    index: NDArray[np.int64] | None = None,
    pixels: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    batch: int = 256,
    workers: int = 0,
    threads: int = 1,
) -> Iterator[Float[Tensor, "b f"]]:
    """The encoder's output, batch by batch in the order of the index; the encoder is in eval mode meanwhile.

    Args:
        encoder: from normalized images (n, 3, pixels, pixels) to rows.
        images: where they come from.
        index: which of them; None for all.
        pixels: side that images are resized to.
        precision: of the network; the result is float32.
        batch: images at a time.
        workers, threads: who reads the images, as in `Loader`.
    Yields:
        float32 on the CPU; rows of images that could not be read are NaN.
    """
    with in_mode(encoder, training=False):
        for prepared, readable in prepared_images(images, index=index, pixels=pixels, batch=batch, workers=workers, threads=threads):
            # Around the network alone: whoever waits for the next batch would otherwise have no gradients either.
            with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                features = encoder(normalize(prepared.to(device, non_blocking=True))).float().cpu()
            features[~readable] = torch.nan
            yield features


def extract_features(
    encoder: Callable[[Tensor], Tensor], images: Images, *, seen: ProgressCallback = _unseen, **how: Any
) -> Float[Tensor, "n f"]:
    """All that `stream_features` yields, which takes the same arguments, as one tensor; `seen` hears how many images there are so far."""
    rows = []
    for batch in stream_features(encoder, images, **how):
        rows.append(batch)
        seen(sum(map(len, rows)))
    return torch.cat(rows)


@contextlib.contextmanager
def in_mode(network: Callable[[Tensor], Tensor], *, training: bool) -> Iterator[None]:
    """Inside, a module trains or does not; afterwards, even after an error, each of its parts is in the mode it was in.

    So a frozen part of a network in training stays in eval mode.
    """
    parts = list(network.modules()) if isinstance(network, nn.Module) else []
    before = [part.training for part in parts]
    if isinstance(network, nn.Module):
        network.train(training)
    try:
        yield
    finally:
        for part, was_training in zip(parts, before, strict=True):
            part.training = was_training


def raw_pixels(
    images: Images,
    *,
    index: NDArray[np.int64] | None = None,
    pixels: int,
    workers: int = 0,
    threads: int = 1,
    seen: ProgressCallback = _unseen,
) -> Float[Tensor, "n f"]:
    """The images themselves as rows, resized to `pixels` a side: the floor that every representation should clear."""
    rows = []
    for prepared, readable in prepared_images(images, index=index, pixels=pixels, workers=workers, threads=threads):
        flat = prepared.flatten(1).float() / 255
        flat[~readable] = torch.nan
        rows.append(flat)
        seen(sum(map(len, rows)))
    return torch.cat(rows)


@dataclass(frozen=True)
class Rows:
    """What was extracted from the images of this rank, by their position in the data set."""

    index: NDArray[np.int64]
    """(n,), rising; each image stands on one rank only. Images that cannot be read are left out."""
    values: NDArray[np.float32]
    """(n, ...), in memory or in a file that is mapped into it."""


class RowsByIndex:
    """Collects rows by the index of their image, in whatever order they come, in memory or in a file.

    Args:
        index: images of this rank, rising.
        memory_bytes: above this the rows go to a file.
        folder: for that file, which is gone when nobody uses it any more; None for the system's.
    """

    def __init__(self, index: NDArray[np.int64], *, memory_bytes: float, folder: Path | None) -> None:
        self.index, self.memory_bytes, self.folder = index, memory_bytes, folder
        self.values: NDArray[np.float32] | None = None
        self.is_there = np.zeros(len(index), dtype=bool)

    def put(self, index: NDArray[np.int64], values: Float[Tensor, "b ..."]) -> None:
        """These rows are those of these images."""
        if self.values is None:
            self.values = _array((len(self.index), *values.shape[1:]), self.memory_bytes, self.folder)
        at = np.searchsorted(self.index, index)
        self.values[at] = values.cpu().numpy()
        self.is_there[at] = True

    def rows(self) -> Rows:
        """What has come, in the order of the index."""
        values = np.empty((0, 1), dtype=np.float32) if self.values is None else self.values
        if self.is_there.all():
            return Rows(self.index, values)
        n = 0
        for at in np.split(np.flatnonzero(self.is_there), range(_BLOCK, int(self.is_there.sum()), _BLOCK)):
            values[n : n + len(at)] = values[at]
            n += len(at)
        return Rows(self.index[self.is_there], values[:n])


_BLOCK = 4096
"""Rows that are worked on at a time."""


def map_rows(rows: Rows, function: Callable[[Tensor], Tensor], device: torch.device) -> Rows:
    """function of the rows, block by block; in memory or in a file, as they are."""
    folder = Path(rows.values.filename).parent if isinstance(rows.values, np.memmap) and rows.values.filename else None
    mapped = RowsByIndex(rows.index, memory_bytes=0 if isinstance(rows.values, np.memmap) else np.inf, folder=folder)
    for start in range(0, max(1, len(rows.index)), _BLOCK):  # of no rows too, so that they have the right width
        part = slice(start, start + _BLOCK)
        mapped.put(rows.index[part], function(torch.from_numpy(np.array(rows.values[part])).to(device)))
    return mapped.rows()


def _array(shape: tuple[int, ...], memory_bytes: float, folder: Path | None) -> NDArray[np.float32]:
    if 4 * math.prod(shape) <= memory_bytes:
        return np.empty(shape, dtype=np.float32)
    handle, name = tempfile.mkstemp(prefix="features-", suffix=".tmp", dir=folder)
    os.close(handle)
    mapped = np.memmap(name, dtype=np.float32, mode="w+", shape=shape)
    if os.name == "posix":
        os.unlink(name)  # the map keeps what it maps; nothing is left behind, however the run ends
    else:
        weakref.finalize(mapped, Path(name).unlink, missing_ok=True)
    return mapped
