"""From images to features: eval mode, no augmentation, one row per image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from selfcluster.data.crops import normalize, resize_center
from selfcluster.data.readers.images import Images
from selfcluster.device import Map, in_threads
from selfcluster.errors import DataError
from selfcluster.settings.config import Interpolation
from selfcluster.workers import ends_with_parent, signals_held

ProgressCallback = Callable[[int], object]
"""Called after each batch with the number of images read so far."""


def _no_progress(n: int) -> None:
    pass


class _PreparedBatches(Dataset):
    """Runs in the workers: batches of images prepared for evaluation, with a flag for each that could be read."""

    def __init__(self, images: Images, index: NDArray[np.int64], pixels: int, interpolation: Interpolation, batch: int, each: Map) -> None:
        self.images, self.index, self.batch, self.each = images, index, batch, each
        self.pixels, self.interpolation = pixels, interpolation

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        mine = self.index[number * self.batch : (number + 1) * self.batch]
        readable = torch.ones(len(mine), dtype=torch.bool)
        if self.images.in_memory:
            return torch.stack([resize_center(image, self.pixels, self.interpolation) for image in self.images.take(mine)]), readable
        prepared = torch.zeros(len(mine), 3, self.pixels, self.pixels, dtype=torch.uint8)

        def scale(height: int, width: int) -> float:
            return self.pixels / min(height, width)

        def prepare(row: int) -> None:
            try:
                prepared[row] = resize_center(self.images.decode(int(mine[row]), scale).pixels, self.pixels, self.interpolation)
            except DataError:
                readable[row] = False

        for _ in self.each(prepare, range(len(mine))):
            pass
        return prepared, readable


def prepared_images(
    images: Images,
    *,
    index: NDArray[np.int64] | None = None,
    pixels: int,
    interpolation: Interpolation = "bilinear",
    batch: int = 256,
    workers: int = 0,
    threads: int = 1,
) -> Iterator[tuple[UInt8[Tensor, "b 3 s s"], Bool[Tensor, " b"]]]:
    """Return batches of (uint8 images of `pixels` a side, which of them could be read), in the order of the index."""
    index = np.arange(len(images)) if index is None else np.asarray(index)
    each = map if workers or images.in_memory else in_threads(threads)
    batches = _PreparedBatches(images, index, pixels, interpolation, batch, each)
    loader = DataLoader(batches, batch_size=None, num_workers=workers, collate_fn=_as_is, worker_init_fn=ends_with_parent())
    with signals_held():
        return iter(loader)


def _as_is(item: object) -> object:
    return item


def stream_features(
    encoder: Callable[[Tensor], Tensor],
    images: Images,
    *,
    index: NDArray[np.int64] | None = None,
    pixels: int,
    interpolation: Interpolation = "bilinear",
    device: torch.device,
    precision: torch.dtype = torch.float32,
    batch: int = 256,
    workers: int = 0,
    threads: int = 1,
) -> Iterator[Float[Tensor, "b f"]]:
    """Yield the encoder's output, batch by batch in the order of the index; the encoder is in eval mode meanwhile.

    Args:
        encoder: maps normalized images (n, 3, pixels, pixels) to rows.
        images: source of the images.
        index: images to read; None for all.
        pixels, interpolation: side that images are resized to, and how.
        precision: of the network; the result is float32.
        batch: images at a time.
        workers, threads: for reading the images, as in `Loader`.
    Yields:
        float32 on the CPU; rows of images that cannot be read are NaN.
    """
    with in_mode(encoder, training=False):
        for prepared, readable in prepared_images(
            images, index=index, pixels=pixels, interpolation=interpolation, batch=batch, workers=workers, threads=threads
        ):
            # Around the network alone: around the yield, the caller would have no gradients either.
            with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                features = encoder(normalize(prepared.to(device, non_blocking=True))).float().cpu()
            features[~readable] = torch.nan
            yield features


def extract_features(
    encoder: Callable[[Tensor], Tensor], images: Images, *, seen: ProgressCallback = _no_progress, **how: Any
) -> Float[Tensor, "n f"]:
    """Return everything that `stream_features` yields, which takes the same arguments, as one tensor."""
    rows = []
    for batch in stream_features(encoder, images, **how):
        rows.append(batch)
        seen(sum(map(len, rows)))
    return torch.cat(rows)


@contextlib.contextmanager
def in_mode(network: Callable[[Tensor], Tensor], *, training: bool) -> Iterator[None]:
    """Set train or eval mode inside, and restore that of every submodule, so that frozen ones stay in eval mode."""
    modules = list(network.modules()) if isinstance(network, nn.Module) else []
    before = [module.training for module in modules]
    if isinstance(network, nn.Module):
        network.train(training)
    try:
        yield
    finally:
        for module, was_training in zip(modules, before, strict=True):
            module.training = was_training


def raw_pixels(
    images: Images,
    *,
    index: NDArray[np.int64] | None = None,
    pixels: int,
    workers: int = 0,
    threads: int = 1,
    seen: ProgressCallback = _no_progress,
) -> Float[Tensor, "n f"]:
    """Return the pixels themselves as rows, resized to `pixels` a side: a baseline that every representation should beat."""
    rows = []
    for prepared, readable in prepared_images(images, index=index, pixels=pixels, workers=workers, threads=threads):
        flat = prepared.flatten(1).float() / 255
        flat[~readable] = torch.nan
        rows.append(flat)
        seen(sum(map(len, rows)))
    return torch.cat(rows)
