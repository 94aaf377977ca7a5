"""Cropping and augmentation for SwAV, compared with lightly, torchvision and kornia.

    pip install 'selfcluster[bench]'
    python -m benchmarks.crops [--images 64] [--pairs 5]

Two recipes with the paper's augmentation: 2 x 32 + 4 x 16 pixels from images of 32, and 2 x 224 + 6 x 96 from images of 256. Times go
from decoded images (PIL images where a library expects them) to normalized float32 crops, on one thread. The contestants take turns
(A B C A B C ...); ratios are computed turn by turn. Also recorded: the time of each part of our pipeline. Results: results/crops.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmarks.command_line import parser
from benchmarks.photos import photos
from benchmarks.record import record, seconds_of, spread
from selfcluster.data.crops import MultiCrop
from selfcluster.data.readers.images import Decoded
from selfcluster.settings.config import AUGMENTATIONS

RECIPES = {
    "2 x 32 + 4 x 16": (32, (2, 4), (32, 16), ((0.14, 1.0), (0.05, 0.14))),
    "2 x 224 + 6 x 96": (256, (2, 6), (224, 96), ((0.14, 1.0), (0.05, 0.14))),
}
"""Pixels of the image, then n_crops, crop_pixels and area."""
CropAll = Callable[[], object]
"""Makes the crops of all images."""


def selfcluster(images: list[Image.Image], crops: MultiCrop, *, in_memory: bool) -> CropAll:
    """Crop from one tensor, as for images in memory, or from a tensor per image, as for decoded files."""
    tensors = tensors_of(images)
    source: Any = torch.stack(tensors) if in_memory else [Decoded.whole(tensor) for tensor in tensors]
    return lambda: crops(source, np.arange(len(images)), seed=0, epoch=0)


def lightly(images: list[Image.Image], crops: MultiCrop) -> CropAll:
    from lightly.transforms import SwaVTransform

    low, high = zip(*crops.area, strict=True)
    transform = SwaVTransform(crop_sizes=crops.crop_pixels, crop_counts=crops.n_crops, crop_min_scales=low, crop_max_scales=high)
    return lambda: [transform(image) for image in images]


def torchvision(images: list[Image.Image], crops: MultiCrop) -> CropAll:
    """transforms.v2 on one tensor per image."""
    from torchvision.transforms import v2

    a = AUGMENTATIONS["photo"]
    transforms = []
    for n, side, area in zip(crops.n_crops, crops.crop_pixels, crops.area, strict=True):
        transform = v2.Compose(
            [
                v2.RandomResizedCrop(side, area, antialias=True),
                v2.RandomHorizontalFlip(a.flip),
                v2.RandomApply([v2.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue)], a.jitter),
                v2.RandomGrayscale(a.grey),
                v2.RandomApply([v2.GaussianBlur(13, a.blur_sigma)], a.blur),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
            ]
        )
        transforms += [transform] * n
    tensors = [tensor.contiguous() for tensor in tensors_of(images)]
    return lambda: [[transform(image) for transform in transforms] for image in tensors]


def kornia(images: list[Image.Image], crops: MultiCrop) -> CropAll:
    """Augmentation modules on a float32 batch."""
    from kornia import augmentation as k

    a = AUGMENTATIONS["photo"]
    transforms = [
        k.AugmentationSequential(
            k.RandomResizedCrop((side, side), area, resample="bilinear", cropping_mode="resample"),
            k.RandomHorizontalFlip(p=a.flip),
            k.ColorJitter(a.brightness, a.contrast, a.saturation, a.hue, p=a.jitter),
            k.RandomGrayscale(p=a.grey),
            k.RandomGaussianBlur((13, 13), a.blur_sigma, p=a.blur),
            k.Normalize(torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)),
        )
        for n, side, area in zip(crops.n_crops, crops.crop_pixels, crops.area, strict=True)
        for _ in range(n)
    ]
    batch = torch.stack(tensors_of(images))
    return lambda: [transform(batch.float() / 255) for transform in transforms]


CONTESTANTS: dict[str, Callable[[list[Image.Image], MultiCrop], CropAll]] = {
    "selfcluster, images in memory": partial(selfcluster, in_memory=True),
    "selfcluster, decoded files": partial(selfcluster, in_memory=False),
    "lightly": lightly,
    "torchvision": torchvision,
    "kornia": kornia,
}


def measure(recipe: str, *, n_images: int, n_pairs: int) -> dict[str, Any]:
    """Return each contestant's milliseconds per image, and the ratios of our time to the others'."""
    side, n_crops, crop_pixels, area = RECIPES[recipe]
    crops, images = MultiCrop(n_crops, crop_pixels, area, "photo"), photos(n_images, side)
    calls = {name: contestant(images, crops) for name, contestant in CONTESTANTS.items()}
    for call in calls.values():
        call()
    turns = [{name: 1e3 * seconds_of(call) / n_images for name, call in calls.items()} for _ in range(n_pairs)]
    ours, others = list(CONTESTANTS)[:2], list(CONTESTANTS)[2:]
    return {
        "recipe": recipe,
        "from_pixels": side,
        "milliseconds_an_image": {name: spread([turn[name] for turn in turns]) for name in CONTESTANTS},
        "ours_over": {mine: {other: spread([turn[mine] / turn[other] for turn in turns]) for other in others} for mine in ours},
        "parts_of_ours": parts(images, crops, n_pairs),
    }


def parts(images: list[Image.Image], crops: MultiCrop, n: int) -> dict[str, float]:
    """Return the median milliseconds per image of each part of our pipeline, for images in memory."""
    batch, index = torch.stack(tensors_of(images)), np.arange(len(images))
    times: dict[str, list[float]] = {"draw": [], "cut": [], "vary": []}
    for _ in range(n):
        marks = [time.perf_counter()]
        drawn = crops.draw(index, seed=0, epoch=0)
        marks.append(time.perf_counter())
        cut = crops.cut(batch, drawn)
        marks.append(time.perf_counter())
        crops.vary(cut, drawn)
        marks.append(time.perf_counter())
        for name, seconds in zip(times, np.diff(marks), strict=True):
            times[name].append(1e3 * float(seconds) / len(images))
    return {name: spread(values)["median"] for name, values in times.items()}


def tensors_of(images: list[Image.Image]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--images", type=int, default=64)
    p.add_argument("--pairs", type=int, default=5, help="turns of each contestant")
    a = p.parse_args()
    torch.set_num_threads(1)
    results = [measure(recipe, n_images=a.images, n_pairs=a.pairs) for recipe in RECIPES]
    for result in results:
        times = ", ".join(f"{name} {t['median']:.2f} ms" for name, t in result["milliseconds_an_image"].items())
        print(f"{result['recipe']}: {times}; parts {result['parts_of_ours']}")
    versions = {name: version(name) for name in ("lightly", "kornia")}
    print(f"-> {record('crops', {'threads': 1, 'other_versions': versions, 'results': results}).name}")


if __name__ == "__main__":
    main()
