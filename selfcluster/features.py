"""From images to features: eval mode, no augmentation, one row an image, scattered by index."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from selfcluster.crops import normalise, resize_centre
from selfcluster.errors import DataError
from selfcluster.images import Images

Layer = Literal["features", "head"]


class _Centred(Dataset):
    """Runs in the workers: images prepared for evaluation, batch by batch, with a flag for each that could be read."""

    def __init__(self, images: Images, index: NDArray[np.int64], pixels: int, batch: int) -> None:
        self.images, self.index, self.pixels, self.batch = images, index, pixels, batch

    def __len__(self) -> int:
        return -(-len(self.index) // self.batch)

    def __getitem__(self, part: int) -> tuple[Tensor, Tensor]:
        mine = self.index[part * self.batch : (part + 1) * self.batch]
        if self.images.in_memory:
            return self._from_array(mine), torch.ones(len(mine), dtype=torch.bool)
        prepared, readable = torch.zeros(len(mine), 3, self.pixels, self.pixels, dtype=torch.uint8), torch.ones(len(mine), dtype=torch.bool)
        for row, image in enumerate(mine):
            try:
                prepared[row] = resize_centre(self.images.decode(int(image)), self.pixels)
            except DataError:
                readable[row] = False
        return prepared, readable

    def _from_array(self, index: NDArray[np.int64]) -> Tensor:
        images = self.images.take(index)
        return torch.stack([resize_centre(image, self.pixels) for image in images])


def prepared_images(
    images: Images, *, index: NDArray[np.int64] | None = None, pixels: int, batch: int = 256, workers: int = 0
) -> DataLoader:
    """Batches of (uint8 images of `pixels` a side, which of them could be read), in the order of the index."""
    index = np.arange(len(images)) if index is None else np.asarray(index)
    return DataLoader(_Centred(images, index, pixels, batch), batch_size=None, num_workers=workers, collate_fn=_as_is)


def _as_is(item: object) -> object:
    return item


@torch.no_grad()
def extract_features(
    encoder: Callable[[Tensor], Tensor],
    images: Images,
    *,
    index: NDArray[np.int64] | None = None,
    pixels: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    batch: int = 256,
    workers: int = 0,
) -> Float[Tensor, "n f"]:
    """The encoder's output for each image, in the order of the index; the encoder is in eval mode meanwhile.

    Args:
        encoder: from normalised images (n, 3, pixels, pixels) to rows.
        images: where they come from.
        index: which of them; None for all.
        pixels: side that images are resized to.
        precision: of the network; the result is float32.
    Returns:
        float32 on the CPU; rows of images that could not be read are NaN.
    """
    rows = []
    with _in_eval_mode(encoder):
        for prepared, readable in prepared_images(images, index=index, pixels=pixels, batch=batch, workers=workers):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                features = encoder(normalise(prepared.to(device, non_blocking=True))).float().cpu()
            features[~readable] = torch.nan
            rows.append(features)
    return torch.cat(rows)


@contextlib.contextmanager
def _in_eval_mode(encoder: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Afterwards, even after an error, each part is in the mode it was in: a frozen part of a network in training stays in eval mode."""
    parts = list(encoder.modules()) if isinstance(encoder, nn.Module) else []
    in_training = [part for part in parts if part.training]
    if isinstance(encoder, nn.Module):
        encoder.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


def raw_pixels(images: Images, *, index: NDArray[np.int64] | None = None, pixels: int, workers: int = 0) -> Float[Tensor, "n f"]:
    """The images themselves as rows, resized to `pixels` a side: the floor that every representation should clear."""
    rows = []
    for prepared, readable in prepared_images(images, index=index, pixels=pixels, workers=workers):
        flat = prepared.flatten(1).float() / 255
        flat[~readable] = torch.nan
        rows.append(flat)
    return torch.cat(rows)
