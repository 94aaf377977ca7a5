"""Multi-crop: several crops of each image, of several sizes, each varied on its own.

Randomness is *drawn* in one place and *applied* in another. What is drawn is a pure function of (seed, epoch, index, occurrence,
crop) and of nothing else, not even of the image's size, so it can be drawn again wherever it is needed: a worker draws to cut
the crops from the decoded image, the training device draws the same again to vary the colours of the whole batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from selfcluster import pixels, randomness
from selfcluster.config import AUGMENTATIONS, AugmentSettings, known

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

_N_TRIES = 10
"""Boxes drawn per crop; the first that lies in the image is taken, as torchvision's RandomResizedCrop does."""
_LEAST_RATIO, _LARGEST_RATIO = 3 / 4, 4 / 3
_N_DRAWS = 2 * _N_TRIES + 20


@dataclass(frozen=True)
class CropParameters:
    """What was drawn for each crop c of each image b: tensors that begin with (c, b), or with both in one axis."""

    area: Float[Tensor, "*c_b tries"]
    """Share of the image's area."""
    ratio: Float[Tensor, "*c_b tries"]
    """Width over height."""
    position: Float[Tensor, "*c_b 2"]
    """Top and left, as a share of the room there is."""
    flip: Bool[Tensor, "*c_b"]
    jitter: Bool[Tensor, "*c_b"]
    order: Int64[Tensor, "*c_b 4"]
    """Which of brightness, contrast, saturation and hue comes first, second, third, fourth."""
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
        """Those of some crops, with crops and images joined into one leading axis."""
        return CropParameters(**{name: x[which].flatten(0, 1) for name, x in vars(self).items()})

    def to(self, device: torch.device) -> CropParameters:
        """The same on another device."""
        return CropParameters(**{name: x.to(device, non_blocking=True) for name, x in vars(self).items()})


class MultiCrop:
    """Draws and applies the crops of a batch of images.

    Args:
        n_crops: crops of each size. Paper: (2, 6).
        crop_pixels: side of each size, in pixels. Paper: (224, 96).
        area: smallest and largest share of the image's area for each size. Paper: ((0.14, 1), (0.05, 0.14)).
        augmentation: "photo" (the paper's), "grey", "glyph", or the strengths one by one.
    Raises:
        ConfigError: an unknown augmentation.
        ValueError: the first three do not have one entry for each size.
    Source: SwAV, arXiv 2006.09882, section 3.2. Deviations: crops are rounded to whole grey levels after the resize, as uint8
    images are; colour and blur work in float32.
    """

    def __init__(
        self,
        n_crops: Sequence[int] = (2, 4),
        crop_pixels: Sequence[int] = (32, 16),
        area: Sequence[tuple[float, float]] = ((0.14, 1.0), (0.05, 0.14)),
        augmentation: str | AugmentSettings = "photo",
    ) -> None:
        if not len(n_crops) == len(crop_pixels) == len(area):
            raise ValueError(f"n_crops {n_crops}, crop_pixels {crop_pixels} and area {area} need one entry for each size")
        self.n_crops, self.crop_pixels, self.area = tuple(n_crops), tuple(crop_pixels), tuple(area)
        if isinstance(augmentation, str):
            augmentation = AUGMENTATIONS[known(augmentation, AUGMENTATIONS, "augmentation")]
        self.augment = augmentation

    def __call__(
        self, images: Tensor | list[Tensor], index: ArrayLike, *, seed: int, epoch: int, occurrence: ArrayLike = 0
    ) -> list[Float[Tensor, "b 3 _ _"]]:
        """`draw`, then `apply`."""
        return self.apply(images, self.draw(index, seed=seed, epoch=epoch, occurrence=occurrence))

    def draw(self, index: ArrayLike, *, seed: int, epoch: int, occurrence: ArrayLike = 0) -> CropParameters:
        """The parameters of every crop of these images.

        Args:
            index: positions of the images in the data set, (b,).
            seed, epoch: of the run.
            occurrence: how often each image came earlier in the epoch; one number, or (b,).
        """
        index = np.atleast_1d(np.asarray(index, dtype=np.int64))
        crop = np.arange(sum(self.n_crops))[:, None]
        stream = iter(np.moveaxis(randomness.uniform(seed, epoch, index, occurrence, crop, n=_N_DRAWS), -1, 0))
        a = self.augment

        def between(low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
            return low + (np.asarray(high) - low) * next(stream)

        def about(centre: float, strength: float) -> NDArray[np.float64]:
            return between(max(0.0, centre - strength) if centre else -strength, centre + strength)

        def happens(probability: float) -> NDArray[np.bool_]:
            return next(stream) < probability

        low, high = np.repeat(np.array(self.area), self.n_crops, axis=0).T[:, :, None]
        drawn = dict(
            area=np.stack([between(low, high) for _ in range(_N_TRIES)], axis=-1),
            ratio=np.exp(np.stack([between(np.log(_LEAST_RATIO), np.log(_LARGEST_RATIO)) for _ in range(_N_TRIES)], axis=-1)),
            position=np.stack([next(stream), next(stream)], axis=-1),
            flip=happens(a.flip),
            jitter=happens(a.jitter),
            order=np.argsort(np.stack([next(stream) for _ in range(4)], axis=-1), axis=-1),
            brightness=about(1, a.brightness),
            contrast=about(1, a.contrast),
            saturation=about(1, a.saturation),
            hue=about(0, a.hue),
            grey=happens(a.grey),
            blur=happens(a.blur),
            sigma=between(*a.blur_sigma),
            angle=about(0, a.rotate_degrees),
            shear=about(0, a.shear),
            shift=np.stack([about(0, a.shift), about(0, a.shift)], axis=-1),
            scale=about(1, a.scale),
        )
        return CropParameters(**{name: _tensor(x) for name, x in drawn.items()})

    def apply(self, images: UInt8[Tensor, "b c height width"] | list[Tensor], parameters: CropParameters) -> list[Float[Tensor, "b 3 _ _"]]:
        """The crops that these parameters describe.

        Args:
            images: uint8 images of one size, or a list of uint8 (c, height, width) of any sizes; one or three channels.
            parameters: from `draw`, for the same images.
        Returns:
            sum(n_crops) tensors, those of the first size first, normalised by the mean and deviation of ImageNet.
        """
        return self.vary(self.cut(images, parameters), parameters)

    def cut(self, images: Tensor | list[Tensor], parameters: CropParameters) -> list[UInt8[Tensor, "_ channels _ _"]]:
        """The geometry alone: one tensor for each size of crop, crops and images joined into one leading axis.

        Made from the decoded image in one step, where the image is: in a worker, or on the device.
        """
        if isinstance(images, Tensor):
            return [_cut_equal(images, parameters.of_crops(which), n, side) for which, n, side in self._sizes()]
        return [_cut_each(images, parameters.of_crops(which), n, side) for which, n, side in self._sizes()]

    def vary(self, cut: list[Tensor], parameters: CropParameters) -> list[Float[Tensor, "b 3 _ _"]]:
        """What `cut` made, varied in shape, colour and sharpness and normalised, in batches on the device where it lies."""
        crops: list[Tensor] = []
        for images, (which, n, _) in zip(cut, self._sizes(), strict=True):
            varied = _normalise(self._vary_one_size(images.float() / 255, parameters.of_crops(which).to(images.device)))
            crops += varied.unflatten(0, (n, -1)).unbind(0)
        return crops

    def _sizes(self) -> list[tuple[slice, int, int]]:
        ends = np.cumsum(self.n_crops)
        return [(slice(int(end) - n, int(end)), n, side) for end, n, side in zip(ends, self.n_crops, self.crop_pixels, strict=True)]

    def _vary_one_size(self, x: Tensor, p: CropParameters) -> Tensor:
        a = self.augment
        if a.rotate_degrees or a.shift or a.shear or a.scale:
            x = pixels.affine(x, p.angle, p.shear, p.shift, p.scale)
        if a.flip:
            x = pixels.flip(x, p.flip)
        if a.jitter:
            x = self._jitter(x, p)
        if a.grey:
            x = pixels.to_grey(x, p.grey)
        if a.blur:
            radius = int(np.ceil(3 * a.blur_sigma[1]))
            (chosen,) = p.blur.nonzero(as_tuple=True)
            x = x.index_copy(0, chosen, pixels.gaussian_blur(x[chosen], p.sigma[chosen], radius=radius))
        return x

    def _jitter(self, x: Tensor, p: CropParameters) -> Tensor:
        """Brightness, contrast, saturation and hue, in each crop's own order."""
        a = self.augment
        operations = [
            (pixels.adjust_brightness, p.brightness, a.brightness),
            (pixels.adjust_contrast, p.contrast, a.contrast),
            (pixels.adjust_saturation, p.saturation, a.saturation),
            (pixels.adjust_hue, p.hue, a.hue),
        ]
        for place in range(4):
            for which, (adjust, factor, strength) in enumerate(operations):
                if strength:
                    (chosen,) = (p.jitter & (p.order[:, place] == which)).nonzero(as_tuple=True)
                    x = x.index_copy(0, chosen, adjust(x[chosen], factor[chosen]))
        return x


def _tensor(x: NDArray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32) if x.dtype == np.float64 else x)


def resolve_boxes(p: CropParameters, height: Int64[Tensor, " n"], width: Int64[Tensor, " n"]) -> Int64[Tensor, "n 4"]:
    """Top, left, height and width in whole pixels of images of these sizes, for parameters joined into one axis.

    The first box drawn that fits is taken; where none does, the largest central one of a permitted shape.
    """
    height, width = height[:, None], width[:, None]
    pixels_wanted = p.area * height * width
    w, h = (pixels_wanted * p.ratio).sqrt().round().long(), (pixels_wanted / p.ratio).sqrt().round().long()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    w, h = w.gather(1, first), h.gather(1, first)
    shape = width / height
    largest_w = torch.where(shape > _LARGEST_RATIO, (height * _LARGEST_RATIO).round().long(), width)
    largest_h = torch.where(shape < _LEAST_RATIO, (width / _LEAST_RATIO).round().long(), height)
    any_fits = fits.any(dim=1, keepdim=True)
    w, h = torch.where(any_fits, w, largest_w), torch.where(any_fits, h, largest_h)
    top, left = (p.position[:, :1] * (height - h + 1)).long(), (p.position[:, 1:] * (width - w + 1)).long()
    top, left = torch.where(any_fits, top, (height - h) // 2), torch.where(any_fits, left, (width - w) // 2)
    return torch.cat([torch.minimum(top, height - h), torch.minimum(left, width - w), h, w], dim=1)


def _cut_equal(images: UInt8[Tensor, "b c height width"], p: CropParameters, n: int, side: int) -> Tensor:
    """From a batch of one size, where it lies."""
    b, height, width = len(images), *images.shape[2:]
    boxes = resolve_boxes(p, torch.full((n * b,), height), torch.full((n * b,), width)).to(images.device)
    parts = [pixels.crop_resize(images, boxes[crop * b : (crop + 1) * b], side) for crop in range(n)]
    return torch.cat(parts)


def _cut_each(images: list[Tensor], p: CropParameters, n: int, side: int) -> Tensor:
    """From images of different sizes, one by one."""
    b = len(images)
    height, width = (torch.tensor([image.shape[axis] for image in images]).repeat(n) for axis in (1, 2))
    boxes = resolve_boxes(p, height, width).tolist()
    out = torch.empty(n * b, 3, side, side, dtype=torch.uint8)
    for at, (top, left, h, w) in enumerate(boxes):
        box = images[at % b][None, :, top : top + h, left : left + w]
        out[at] = interpolate(box, (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    return out


def resize_centre(image: UInt8[Tensor, "c height width"], side: int) -> UInt8[Tensor, "3 side side"]:
    """The largest central square for evaluation, resized to `side`; bilinear, antialiased."""
    short = min(image.shape[1:])
    top, left = (image.shape[1] - short) // 2, (image.shape[2] - short) // 2
    square = image[:, top : top + short, left : left + short]
    if short != side:
        square = interpolate(square[None], (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    return square.expand(3, -1, -1)


def normalise(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """uint8 images as the network wants them: in units of ImageNet's deviation about its mean."""
    return _normalise(images.float() / 255)


def _normalise(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 h w"]:
    mean, deviation = (torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, DEVIATION))
    return (x - mean) / deviation
