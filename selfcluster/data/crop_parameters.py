"""What is drawn at random for each crop: its box, its colors and its shape.

The draw is a pure function of (seed, epoch, index, occurrence, crop), not even of the image's size, so it can be repeated wherever it is
needed: a worker draws to cut the crops from the decoded image, and the training device draws the same to vary the colors of a whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from selfcluster import randomness
from selfcluster.settings.config import AugmentSettings

MIN_RATIO, MAX_RATIO = 3 / 4, 4 / 3
"""Bounds of a box's width over its height."""
_N_TRIES = 10
"""Boxes drawn for each crop; the first that fits into the image is used, as in torchvision's RandomResizedCrop."""
_N_DRAWS = 2 * _N_TRIES + 20


@dataclass(frozen=True)
class CropParameters:
    """What was drawn for each crop c of each image b, as tensors that begin with (c, b), or with both in one axis."""

    area: Float[Tensor, "*c_b tries"]
    """Share of the image's area."""
    ratio: Float[Tensor, "*c_b tries"]
    """Width over height."""
    position: Float[Tensor, "*c_b 2"]
    """Top and left, as a share of the free space."""
    flip: Bool[Tensor, "*c_b"]
    jitter: Bool[Tensor, "*c_b"]
    order: Int64[Tensor, "*c_b 4"]
    """Order of brightness (0), contrast (1), saturation (2) and hue (3)."""
    brightness: Float[Tensor, "*c_b"]
    contrast: Float[Tensor, "*c_b"]
    saturation: Float[Tensor, "*c_b"]
    hue: Float[Tensor, "*c_b"]
    grey: Bool[Tensor, "*c_b"]
    blur: Bool[Tensor, "*c_b"]
    sigma: Float[Tensor, "*c_b"]
    angle: Float[Tensor, "*c_b"]
    shear: Float[Tensor, "*c_b"]
    shift: Float[Tensor, "*c_b 2"]
    scale: Float[Tensor, "*c_b"]

    def of_crops(self, which: slice) -> CropParameters:
        """Return the parameters of some crops, with crops and images joined into one leading axis."""
        return CropParameters(**{name: x[which].flatten(0, 1) for name, x in vars(self).items()})

    def of_image(self, which: slice, image: int) -> CropParameters:
        """Return the parameters of some crops of one image."""
        return CropParameters(**{name: x[which, image] for name, x in vars(self).items()})

    def rows(self, which: slice) -> CropParameters:
        """Return the parameters of some rows, where crops and images are joined."""
        return CropParameters(**{name: x[which] for name, x in vars(self).items()})

    # Pickled as arrays: torch would send each tensor from a worker as an open file.
    def __getstate__(self) -> dict[str, NDArray]:
        return {name: x.numpy() for name, x in vars(self).items()}

    def __setstate__(self, state: dict[str, NDArray]) -> None:
        vars(self).update({name: torch.from_numpy(x) for name, x in state.items()})


def draw_parameters(
    index: ArrayLike,
    *,
    n_crops: Sequence[int],
    area: Sequence[tuple[float, float]],
    augment: AugmentSettings,
    seed: int,
    epoch: int,
    occurrence: ArrayLike = 0,
) -> CropParameters:
    """Draw the parameters of every crop of these images.

    Args:
        index: positions of the images in the data set, (b,).
        n_crops: crops of each size.
        area: smallest and largest share of the image's area, for each size.
        augment: strengths and probabilities.
        seed: seed of the run.
        epoch: epoch of the run.
        occurrence: how often each image came earlier in the epoch; one number, or (b,).
    """
    index = np.atleast_1d(np.asarray(index, dtype=np.int64))
    crop = np.arange(sum(n_crops))[:, None]
    stream = iter(np.moveaxis(randomness.uniform(seed, epoch, index, occurrence, crop, n=_N_DRAWS), -1, 0))

    def between(low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
        return low + (np.asarray(high) - low) * next(stream)

    def about(center: float, strength: float) -> NDArray[np.float64]:
        return between(max(0.0, center - strength) if center else -strength, center + strength)

    def happens(probability: float) -> NDArray[np.bool_]:
        return next(stream) < probability

    low, high = np.repeat(np.array(area), n_crops, axis=0).T[:, :, None]
    drawn = dict(
        area=np.stack([between(low, high) for _ in range(_N_TRIES)], axis=-1),
        ratio=np.exp(np.stack([between(np.log(MIN_RATIO), np.log(MAX_RATIO)) for _ in range(_N_TRIES)], axis=-1)),
        position=np.stack([next(stream), next(stream)], axis=-1),
        flip=happens(augment.flip),
        jitter=happens(augment.jitter),
        order=np.argsort(np.stack([next(stream) for _ in range(4)], axis=-1), axis=-1),
        brightness=about(1, augment.brightness),
        contrast=about(1, augment.contrast),
        saturation=about(1, augment.saturation),
        hue=about(0, augment.hue),
        grey=happens(augment.grey),
        blur=happens(augment.blur),
        sigma=between(*augment.blur_sigma),
        angle=about(0, augment.rotate_degrees),
        shear=about(0, augment.shear),
        shift=np.stack([about(0, augment.shift), about(0, augment.shift)], axis=-1),
        scale=about(1, augment.scale),
    )
    # float64 to float32; flags and orders stay as they are.
    return CropParameters(**{name: torch.from_numpy(x.astype(np.float32) if x.dtype == np.float64 else x) for name, x in drawn.items()})


def resolve_boxes(p: CropParameters, height: Int64[Tensor, " n"], width: Int64[Tensor, " n"]) -> Int64[Tensor, "n 4"]:
    """Return top, left, height and width in whole pixels of images of these sizes, for parameters joined into one axis.

    The first drawn box that fits is used; if none fits, the largest central one of a permitted shape.
    """
    height, width = height[:, None], width[:, None]
    pixels_wanted = p.area * height * width
    w, h = (pixels_wanted * p.ratio).sqrt().round().long(), (pixels_wanted / p.ratio).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    w, h = w.gather(1, first), h.gather(1, first)
    shape = width / height
    largest_w = torch.where(shape > MAX_RATIO, (height * MAX_RATIO).round().long(), width)
    largest_h = torch.where(shape < MIN_RATIO, (width / MIN_RATIO).round().long(), height)
    any_fits = fits.any(dim=1, keepdim=True)
    w, h = torch.where(any_fits, w, largest_w), torch.where(any_fits, h, largest_h)
    top, left = (p.position[:, :1] * (height - h + 1)).long(), (p.position[:, 1:] * (width - w + 1)).long()
    top, left = torch.where(any_fits, top, (height - h) // 2), torch.where(any_fits, left, (width - w) // 2)
    return torch.cat([torch.minimum(top, height - h), torch.minimum(left, width - w), h, w], dim=1)
