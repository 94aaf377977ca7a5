"""Multi-crop: several crops of each image, of several sizes, each augmented on its own.

Parameters are drawn in one place (`crop_parameters.py`) and applied in two steps: `cut` makes uint8 crops from the decoded image, in a worker
or on the device, and `vary` augments them in batches on the device that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import ArrayLike
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn.functional import interpolate

from selfcluster.data import augment
from selfcluster.data.crop_parameters import MIN_RATIO, CropParameters, draw_parameters, resolve_boxes
from selfcluster.data.readers.images import Decoded, MinScale
from selfcluster.device import Map
from selfcluster.errors import known
from selfcluster.settings.config import AUGMENTATIONS, AugmentSettings, Interpolation

_SMALL = 96**2
"""Pixels of images that a CPU cuts as a batch, by matrix products; larger ones are cut one by one."""
_CACHED = 1 << 19
"""Values that fit a CPU's cache."""
_MIN_PARTS = 4
"""Smallest number of parts worth running in threads; fewer are left to torch's own threads, operation by operation."""


class CropSize(NamedTuple):
    """The crops of one size."""

    which: slice
    """Their positions among all crops of an image."""
    n: int
    pixels: int


class MultiCrop:
    """Draws and applies the crops of a batch of images.

    Args:
        n_crops: crops of each size. Paper: (2, 6).
        crop_pixels: side of each size, in pixels. Paper: (224, 96).
        area: smallest and largest share of the image's area for each size. Paper: ((0.14, 1), (0.05, 0.14)).
        augmentation: "photo" (the paper's), "grey", "glyph", or the strengths one by one.
    Raises:
        ConfigError: the augmentation is unknown.
        ValueError: the first three do not have one entry for each size.
    Source: SwAV, arXiv 2006.09882, section 3.2. Deviations: crops are rounded to whole grey levels after the resize, as uint8
    images are; color and blur work in float32.
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
        ends = np.cumsum(self.n_crops).tolist()
        self.sizes = [CropSize(slice(end - n, end), n, side) for end, n, side in zip(ends, self.n_crops, self.crop_pixels, strict=True)]

    def __call__(
        self, images: Tensor | list[Decoded], index: ArrayLike, *, seed: int, epoch: int, occurrence: ArrayLike = 0
    ) -> list[Float[Tensor, "b 3 _ _"]]:
        """Draw the parameters and apply them."""
        return self.apply(images, self.draw(index, seed=seed, epoch=epoch, occurrence=occurrence))

    def draw(self, index: ArrayLike, *, seed: int, epoch: int, occurrence: ArrayLike = 0) -> CropParameters:
        """Draw the parameters of every crop of these images; see `draw_parameters`."""
        return draw_parameters(
            index, n_crops=self.n_crops, area=self.area, augment=self.augment, seed=seed, epoch=epoch, occurrence=occurrence
        )

    def apply(self, images: Tensor | list[Decoded], parameters: CropParameters) -> list[Float[Tensor, "b 3 _ _"]]:
        """Make the crops.

        Args:
            images: uint8 images of one size, or a list of decoded images of any sizes; one or three channels.
            parameters: from `draw`, for the same images.
        Returns:
            sum(n_crops) tensors, those of the first size first, normalized by ImageNet's mean and standard deviation.
        """
        return self.vary(self.cut(images, parameters), parameters)

    def min_scale(self, parameters: CropParameters, image: int) -> MinScale:
        """Return the smallest scale at which no crop of an image is enlarged more than from the whole image.

        Args:
            parameters: from `draw`.
            image: position of the image among those that the parameters were drawn for.
        """

        def scale(height: int, width: int) -> float:
            if 2 * min(self.crop_pixels) > min(height, width):
                return 1.0  # no box is twice as large as its crop, as for most images
            needed = []
            for which, n, side in self.sizes:
                boxes = resolve_boxes(parameters.of_image(which, image), torch.full((n,), height), torch.full((n,), width))
                needed.append(side / int(boxes[:, 2:].min()))
            return min(1.0, max(needed))

        return scale

    def min_scale_of_any(self, height: int, width: int) -> float:
        """Return the smallest scale that suffices for every possible crop, and for the whole image at the size of the first crops."""
        shortest = [min(height, width, (MIN_RATIO * low * height * width) ** 0.5 - 1) for low, _ in self.area]
        return min(1.0, max(side / max(1.0, box) for side, box in zip(self.crop_pixels, shortest, strict=True)))

    def cut(self, images: Tensor | list[Decoded], parameters: CropParameters, each: Map = map) -> list[UInt8[Tensor, "_ channels _ _"]]:
        """Cut and resize the crops: one tensor for each size, with crops and images joined into one leading axis.

        Args:
            images: a batch of one size, or decoded images of any sizes.
            parameters: from `draw`, for the same images.
            each: `map`, or a map in threads, for images that are cut one by one.
        """
        if not self.augment.flip:
            parameters = replace(parameters, flip=torch.zeros_like(parameters.flip))
        drawn = [parameters.of_crops(size.which) for size in self.sizes]
        if not isinstance(images, Tensor):
            return _cut_one_by_one(images, drawn, self.sizes, each)
        if images.device.type == "cpu" and images.shape[2] * images.shape[3] > _SMALL:
            return _cut_one_by_one([Decoded.whole(image) for image in images], drawn, self.sizes, each)
        b, height, width = len(images), *images.shape[2:]
        crops = []
        for p, (_, n, side) in zip(drawn, self.sizes, strict=True):
            boxes = resolve_boxes(p, torch.full((n * b,), height), torch.full((n * b,), width)).view(n, b, 4)
            crops.append(augment.crop_resize(images, boxes, side, mirrored=p.flip.view(n, b)).flatten(0, 1))
        return crops

    def vary(self, cut: list[Tensor], parameters: CropParameters, each: Map = map) -> list[Float[Tensor, "b 3 _ _"]]:
        """Vary shape, color and sharpness of the crops, and normalize them, on the device that they are on.

        Args:
            cut: from `cut`.
            parameters: the same that the crops were cut with.
            each: `map` or a threaded map; on a CPU, crops are processed in small parts.
        """
        varied = [
            torch.empty(len(images), 3, size.pixels, size.pixels, device=images.device)
            for images, size in zip(cut, self.sizes, strict=True)
        ]
        drawn = [parameters.of_crops(size.which) for size in self.sizes]
        parts = []
        for place, images in enumerate(cut):
            # Few enough at a time to stay in a CPU's cache from one operation to the next.
            step = max(1, _CACHED // images[0].numel()) if images.device.type == "cpu" else len(images)
            parts += [(place, slice(start, start + step)) for start in range(0, len(images), step)]

        def vary_part(part: tuple[int, slice]) -> None:
            place, rows = part
            x = self._vary(cut[place][rows].float().div_(255), drawn[place].rows(rows))
            _normalize(x, out=varied[place][rows])

        for _ in each(vary_part, parts) if len(parts) >= _MIN_PARTS else map(vary_part, parts):
            pass
        return [crop for crops, size in zip(varied, self.sizes, strict=True) for crop in crops.unflatten(0, (size.n, -1)).unbind(0)]

    def _vary(self, x: Tensor, p: CropParameters) -> Tensor:
        a = self.augment
        if a.rotate_degrees or a.shift or a.shear or a.scale:
            x = augment.affine(x, *(v.to(x.device, non_blocking=True) for v in (p.angle, p.shear, p.shift, p.scale)))
        if a.jitter:
            x = self._jitter(x, p)
        if a.grey and x.shape[1] > 1:
            _change_(x, p.grey, lambda chosen, _: augment.luma(chosen).expand_as(chosen))
        if a.blur:
            radius = int(np.ceil(3 * a.blur_sigma[1]))
            _change_(x, p.blur, lambda chosen, sigma: augment.gaussian_blur(chosen, sigma, radius=radius), p.sigma)
        return x

    def _jitter(self, x: Tensor, p: CropParameters) -> Tensor:
        """Adjust brightness, contrast, saturation and hue, in each crop's own order.

        Four times, the crops are sorted by the operation that is next for them, so that each operation works in place on neighbors.
        """
        a = self.augment
        operations = [
            (augment.adjust_brightness_, p.brightness, a.brightness),
            (augment.adjust_contrast_, p.contrast, a.contrast),
            (augment.adjust_saturation_, p.saturation, a.saturation),
            (augment.adjust_hue_, p.hue, a.hue),
        ]
        position = torch.arange(len(x))  # of each row of x before sorting; on the CPU, so that nothing waits for the device
        for turn in range(4):
            which = torch.where(p.jitter, p.order[:, turn], len(operations))[position]
            by_operation = which.argsort(stable=True)
            position, x = position[by_operation], x.index_select(0, by_operation.to(x.device, non_blocking=True))
            ends = which.bincount(minlength=len(operations)).cumsum(0).tolist()
            for (adjust_, factor, strength), start, end in zip(operations, [0, *ends], ends, strict=False):
                if strength and end > start:
                    adjust_(x[start:end], factor[position[start:end]].to(x.device, non_blocking=True))
        return x.index_select(0, position.argsort().to(x.device, non_blocking=True))


def _change_(x: Tensor, where: Bool[Tensor, " n"], change: Callable[[Tensor, Tensor], Tensor], parameter: Tensor | None = None) -> None:
    """Change some of the images in place."""
    (chosen,) = where.nonzero(as_tuple=True)
    if len(chosen):
        at = chosen.to(x.device, non_blocking=True)
        given = at if parameter is None else parameter[chosen].to(x.device, non_blocking=True)
        x.index_copy_(0, at, change(x.index_select(0, at), given))


def _cut_one_by_one(images: list[Decoded], drawn: list[CropParameters], sizes: list[CropSize], each: Map) -> list[Tensor]:
    """Cut images of different sizes."""
    b = len(images)
    height, width = (torch.tensor([image.size[axis] for image in images]) for axis in (0, 1))
    boxes = [resolve_boxes(p, height.repeat(n), width.repeat(n)).tolist() for p, (_, n, _) in zip(drawn, sizes, strict=True)]
    mirrored = [p.flip.tolist() for p in drawn]
    out = [torch.empty(n * b, 3, side, side, dtype=torch.uint8) for _, n, side in sizes]

    def cut(image: int) -> None:
        for size, (_, n, side) in enumerate(sizes):
            for at in range(image, n * b, b):
                crop = images[image].box(*boxes[size][at])
                if crop.shape[1:] != (side, side):
                    crop = interpolate(crop[None], (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
                out[size][at] = crop.flip(-1) if mirrored[size][at] else crop

    for _ in each(cut, range(b)):
        pass
    return out


def resize_center(
    image: UInt8[Tensor, "c height width"], side: int, interpolation: Interpolation = "bilinear"
) -> UInt8[Tensor, "3 side side"]:
    """Resize the largest central square of an image to `side`, for evaluation; antialiased."""
    short = min(image.shape[1:])
    top, left = (image.shape[1] - short) // 2, (image.shape[2] - short) // 2
    square = image[:, top : top + short, left : left + short]
    if short != side:
        square = interpolate(square[None], (side, side), mode=interpolation, antialias=True, align_corners=False)[0]
    return square.expand(3, -1, -1)


def normalize(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Normalize uint8 images by ImageNet's mean and standard deviation."""
    return _normalize(images.float().div_(255), out=torch.empty(images.shape, device=images.device))


def _normalize(x: Float[Tensor, "n c h w"], out: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    mean, deviation = (torch.tensor(v, device=x.device)[:, None, None] for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return torch.sub(x, mean, out=out).div_(deviation)
