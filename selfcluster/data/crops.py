"""Multi-crop: several crops of each image, of several sizes, each varied on its own.

Randomness is *drawn* in one place and *applied* in another. What is drawn is a pure function of (seed, epoch, index, occurrence,
crop) and of nothing else, not even of the image's size, so it can be drawn again wherever it is needed: a worker draws to cut
the crops from the decoded image, the training device draws the same again to vary the colors of the whole batch at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from selfcluster import randomness
from selfcluster.data import augment
from selfcluster.data.readers.images import Decoded, DecodeLimit
from selfcluster.device import Map
from selfcluster.errors import known
from selfcluster.settings.config import AUGMENTATIONS, AugmentSettings

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

    def of_image(self, which: slice, image: int) -> CropParameters:
        """Those of some crops of one image."""
        return CropParameters(**{name: x[which, image] for name, x in vars(self).items()})

    def rows(self, which: slice) -> CropParameters:
        """Those of some rows, where crops and images are joined."""
        return CropParameters(**{name: x[which] for name, x in vars(self).items()})

    def __reduce__(self) -> tuple[Any, ...]:
        # From a worker they travel as plain bytes: as tensors, each would be sent as an open file of its own.
        return _from_arrays, ({name: x.numpy() for name, x in vars(self).items()},)


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

    def __call__(
        self, images: Tensor | list[Decoded], index: ArrayLike, *, seed: int, epoch: int, occurrence: ArrayLike = 0
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

        def about(center: float, strength: float) -> NDArray[np.float64]:
            return between(max(0.0, center - strength) if center else -strength, center + strength)

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

    def apply(
        self, images: UInt8[Tensor, "b c height width"] | list[Decoded], parameters: CropParameters
    ) -> list[Float[Tensor, "b 3 _ _"]]:
        """The crops that these parameters describe.

        Args:
            images: uint8 images of one size, or a list of decoded images of any sizes; one or three channels.
            parameters: from `draw`, for the same images.
        Returns:
            sum(n_crops) tensors, those of the first size first, normalized by the mean and deviation of ImageNet.
        """
        return self.vary(self.cut(images, parameters), parameters)

    def least(self, parameters: CropParameters, image: int) -> DecodeLimit:
        """The share of its size at which no crop of this image would be enlarged more than from the whole of it.

        Args:
            parameters: from `draw`.
            image: its place among the images that they were drawn for.
        """

        def share(height: int, width: int) -> float:
            if 2 * min(self.crop_pixels) > min(height, width):
                return 1.0  # no box is twice as large as its crop; most images end here
            shares = [self._share(parameters.of_image(which, image), n, side, height, width) for which, n, side in self._sizes()]
            return min(1.0, max(shares))

        return share

    def _share(self, p: CropParameters, n: int, side: int, height: int, width: int) -> float:
        boxes = resolve_boxes(p, torch.full((n,), height), torch.full((n,), width))
        return side / int(boxes[:, 2:].min())

    def least_of_any(self, height: int, width: int) -> float:
        """The same for whatever may be drawn, and for the whole image at the size of the first crops."""
        shortest = [min(height, width, (_LEAST_RATIO * low * height * width) ** 0.5 - 1) for low, _ in self.area]
        return min(1.0, max(side / max(1.0, box) for side, box in zip(self.crop_pixels, shortest, strict=True)))

    def cut(self, images: Tensor | list[Decoded], parameters: CropParameters, each: Map = map) -> list[UInt8[Tensor, "_ channels _ _"]]:
        """The geometry alone: one tensor for each size of crop, crops and images joined into one leading axis.

        Made from the decoded image in one step, where the image is: in a worker, or on the device.

        Args:
            images: a batch of one size, or decoded images of any sizes.
            parameters: from `draw`, for the same images.
            each: `map`, or threads that do as it does, where images are cut one by one.
        """
        if not self.augment.flip:
            parameters = replace(parameters, flip=torch.zeros_like(parameters.flip))
        if isinstance(images, Tensor):
            if images.device.type != "cpu" or images.shape[2] * images.shape[3] <= _SMALL:
                return [_cut_together(images, parameters.of_crops(which), n, side) for which, n, side in self._sizes()]
            images = [Decoded.whole(image) for image in images]
        return _cut_one_by_one(images, [(parameters.of_crops(which), n, side) for which, n, side in self._sizes()], each)

    def vary(self, cut: list[Tensor], parameters: CropParameters, each: Map = map) -> list[Float[Tensor, "b 3 _ _"]]:
        """What `cut` made, varied in shape, color and sharpness and normalized, in batches on the device where it lies.

        Args:
            cut: from `cut`.
            parameters: the same that it was cut by.
            each: `map`, or threads that do as it does: on a CPU, where few crops are varied at a time.
        """
        varied = [
            torch.empty(len(images), 3, side, side, device=images.device) for images, (_, _, side) in zip(cut, self._sizes(), strict=True)
        ]
        drawn = [parameters.of_crops(which) for which, _, _ in self._sizes()]

        def vary_part(place: tuple[int, slice]) -> None:
            size, part = place
            x = self._vary(cut[size][part].float().div_(255), drawn[size].rows(part))
            _normalize(x, out=varied[size][part])

        parts = [(size, part) for size, images in enumerate(cut) for part in _parts(images)]
        for _ in each(vary_part, parts) if len(parts) >= _ENOUGH else map(vary_part, parts):
            pass
        return [crop for of_size, (_, n, _) in zip(varied, self._sizes(), strict=True) for crop in of_size.unflatten(0, (n, -1)).unbind(0)]

    def _sizes(self) -> list[tuple[slice, int, int]]:
        ends = np.cumsum(self.n_crops)
        return [(slice(int(end) - n, int(end)), n, side) for end, n, side in zip(ends, self.n_crops, self.crop_pixels, strict=True)]

    def _vary(self, x: Tensor, p: CropParameters) -> Tensor:
        a = self.augment
        if a.rotate_degrees or a.shift or a.shear or a.scale:
            x = augment.affine(x, *(v.to(x.device, non_blocking=True) for v in (p.angle, p.shear, p.shift, p.scale)))
        if a.jitter:
            x = self._jitter(x, p)
        if a.grey and x.shape[1] > 1:
            _change(x, p.grey, lambda chosen, _: augment.luma(chosen).expand_as(chosen))
        if a.blur:
            radius = int(np.ceil(3 * a.blur_sigma[1]))
            _change(x, p.blur, lambda chosen, sigma: augment.gaussian_blur(chosen, sigma, radius=radius), p.sigma)
        return x

    def _jitter(self, x: Tensor, p: CropParameters) -> Tensor:
        """Brightness, contrast, saturation and hue, in each crop's own order.

        Four times the crops are sorted by the operation whose turn it is, so that each works in place on neighbors.
        """
        a = self.augment
        operations = [
            (augment.adjust_brightness_, p.brightness, a.brightness),
            (augment.adjust_contrast_, p.contrast, a.contrast),
            (augment.adjust_saturation_, p.saturation, a.saturation),
            (augment.adjust_hue_, p.hue, a.hue),
        ]
        position = torch.arange(len(x))  # of each row of x before it was sorted; on the CPU, so that no device is waited for
        for turn in range(4):
            which = torch.where(p.jitter, p.order[:, turn], len(operations))[position]
            by_operation = which.argsort(stable=True)
            position, x = position[by_operation], x.index_select(0, by_operation.to(x.device, non_blocking=True))
            ends = which.bincount(minlength=len(operations)).cumsum(0).tolist()
            for (adjust_, factor, strength), start, end in zip(operations, [0, *ends], ends, strict=False):
                if strength and end > start:
                    adjust_(x[start:end], factor[position[start:end]].to(x.device, non_blocking=True))
        return x.index_select(0, position.argsort().to(x.device, non_blocking=True))


_SMALL = 96**2
"""Pixels of images that a CPU cuts all together, by products of matrices; larger ones it cuts one by one."""

_CACHED = 1 << 19
"""Values that a CPU's cache holds beside all else."""

_ENOUGH = 4
"""Parts for which it pays to have them varied by threads; fewer are left to torch's own threads, operation by operation."""


def _parts(images: Tensor) -> Iterator[slice]:
    """On a CPU so few at a time that its cache holds them from one operation to the next; elsewhere all at once."""
    step = max(1, _CACHED // images[0].numel()) if images.device.type == "cpu" else len(images)
    return (slice(start, start + step) for start in range(0, len(images), step))


def _change(x: Tensor, where: Bool[Tensor, " n"], change: Callable[[Tensor, Tensor], Tensor], parameter: Tensor | None = None) -> None:
    """Some images are changed, in place."""
    (chosen,) = where.nonzero(as_tuple=True)
    if len(chosen):
        at = chosen.to(x.device, non_blocking=True)
        given = at if parameter is None else parameter[chosen].to(x.device, non_blocking=True)
        x.index_copy_(0, at, change(x.index_select(0, at), given))


def _from_arrays(drawn: dict[str, NDArray]) -> CropParameters:
    return CropParameters(**{name: torch.from_numpy(x) for name, x in drawn.items()})


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


def _cut_together(images: UInt8[Tensor, "b c height width"], p: CropParameters, n: int, side: int) -> Tensor:
    """From a batch of one size, where it lies."""
    b, height, width = len(images), *images.shape[2:]
    boxes = resolve_boxes(p, torch.full((n * b,), height), torch.full((n * b,), width)).view(n, b, 4)
    return augment.crop_resize(images, boxes, side, mirrored=p.flip.view(n, b)).flatten(0, 1)


def _cut_one_by_one(images: list[Decoded], sizes: list[tuple[CropParameters, int, int]], each: Map) -> list[Tensor]:
    """From images of different sizes."""
    b = len(images)
    height, width = (torch.tensor([image.size[axis] for image in images]) for axis in (0, 1))
    boxes = [resolve_boxes(p, height.repeat(n), width.repeat(n)).tolist() for p, n, _ in sizes]
    mirrored = [p.flip.tolist() for p, _, _ in sizes]
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


def resize_center(image: UInt8[Tensor, "c height width"], side: int) -> UInt8[Tensor, "3 side side"]:
    """The largest central square for evaluation, resized to `side`; bilinear, antialiased."""
    short = min(image.shape[1:])
    top, left = (image.shape[1] - short) // 2, (image.shape[2] - short) // 2
    square = image[:, top : top + short, left : left + short]
    if short != side:
        square = interpolate(square[None], (side, side), mode="bilinear", antialias=True, align_corners=False)[0]
    return square.expand(3, -1, -1)


def normalize(images: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """uint8 images as the network wants them: in units of ImageNet's deviation about its mean."""
    return _normalize(images.float().div_(255), out=torch.empty(images.shape, device=images.device))


def _normalize(x: Float[Tensor, "n c h w"], out: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    mean, deviation = (torch.tensor(v, device=x.device)[:, None, None] for v in (MEAN, DEVIATION))
    return torch.sub(x, mean, out=out).div_(deviation)
