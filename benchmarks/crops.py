"""The crops of SwAV beside lightly's, torchvision's and kornia's: the same recipe from the same decoded images, one thread each.

    pip install 'selfcluster[bench]'
    python -m benchmarks.crops [--images 64] [--pairs 5]

Two recipes: 2 x 32 + 4 x 16 pixels from images of 32, and 2 x 224 + 6 x 96 from images of 256, both with the paper's augmentation. Times
are from decoded images (PIL's for those who want them so) to normalized float32 crops, in turns (A B C A B C ...); ratios are taken
turn by turn. Also timed: the share of each part of ours. Results: results/crops.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmarks.photos import photos
from benchmarks.record import record, spread
from selfcluster.data.crops import MultiCrop
from selfcluster.data.readers.images import Decoded
from selfcluster.settings.config import AUGMENTATIONS

RECIPES = {
    "2 x 32 + 4 x 16": (32, (2, 4), (32, 16), ((0.14, 1.0), (0.05, 0.14))),
    "2 x 224 + 6 x 96": (256, (2, 6), (224, 96), ((0.14, 1.0), (0.05, 0.14))),
}
Make = Callable[[], object]


def ours(images: list[Image.Image], crops: MultiCrop, *, in_memory: bool) -> Make:
    """From one tensor, as images in memory lie, or from tensors of their own, as decoded files do."""
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]
    given: Any = torch.stack(tensors) if in_memory else [Decoded.whole(tensor) for tensor in tensors]
    return lambda: crops(given, np.arange(len(images)), seed=0, epoch=0)


def lightly(images: list[Image.Image], crops: MultiCrop) -> Make:
    from lightly.transforms import SwaVTransform

    low, high = zip(*crops.area, strict=True)
    transform = SwaVTransform(crop_sizes=crops.crop_pixels, crop_counts=crops.n_crops, crop_min_scales=low, crop_max_scales=high)
    return lambda: [transform(image) for image in images]


def torchvision(images: list[Image.Image], crops: MultiCrop) -> Make:
    """Its transforms.v2, on tensors of each image."""
    from torchvision.transforms import v2

    a = AUGMENTATIONS["photo"]
    transforms = []
    for n, side, area in zip(crops.n_crops, crops.crop_pixels, crops.area, strict=True):
        one = v2.Compose(
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
        transforms += [one] * n
    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in images]
    return lambda: [[transform(image) for transform in transforms] for image in tensors]


def kornia(images: list[Image.Image], crops: MultiCrop) -> Make:
    """Its augmentation modules, on a batch in float32."""
    from kornia import augmentation as k

    a = AUGMENTATIONS["photo"]
    each = [
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
    batch = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    return lambda: [make(batch.float() / 255) for make in each]


CONTESTANTS: dict[str, Callable[[list[Image.Image], MultiCrop], Make]] = {
    "selfcluster, images in memory": partial(ours, in_memory=True),
    "selfcluster, decoded files": partial(ours, in_memory=False),
    "lightly": lightly,
    "torchvision": torchvision,
    "kornia": kornia,
}


def measure(name: str, *, n_images: int, n_pairs: int) -> dict[str, Any]:
    """Milliseconds an image of each contestant, and ours over theirs."""
    side, n_crops, crop_pixels, area = RECIPES[name]
    crops, images = MultiCrop(n_crops, crop_pixels, area, "photo"), photos(n_images, side)
    makes = {contestant: make(images, crops) for contestant, make in CONTESTANTS.items()}
    for make in makes.values():
        make()
    turns = [{contestant: 1e3 * _seconds(make) / n_images for contestant, make in makes.items()} for _ in range(n_pairs)]
    ours_of, others = list(CONTESTANTS)[:2], list(CONTESTANTS)[2:]
    return {
        "recipe": name,
        "from_pixels": side,
        "milliseconds_an_image": {contestant: spread([turn[contestant] for turn in turns]) for contestant in CONTESTANTS},
        "ours_over": {mine: {other: spread([turn[mine] / turn[other] for turn in turns]) for other in others} for mine in ours_of},
        "parts_of_ours": parts(images, crops, n_pairs),
    }


def parts(images: list[Image.Image], crops: MultiCrop, n: int) -> dict[str, float]:
    """Milliseconds an image of each part, images in memory: medians."""
    batch = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    index = np.arange(len(images))
    times: dict[str, list[float]] = {"draw": [], "cut": [], "vary": []}
    for _ in range(n):
        started = time.perf_counter()
        drawn = crops.draw(index, seed=0, epoch=0)
        then = time.perf_counter()
        cut = crops.cut(batch, drawn)
        later = time.perf_counter()
        crops.vary(cut, drawn)
        for name, seconds in zip(times, (then - started, later - then, time.perf_counter() - later), strict=True):
            times[name].append(1e3 * seconds / len(images))
    return {name: spread(values)["median"] for name, values in times.items()}


def _seconds(run: Make) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [measure(name, n_images=arguments.images, n_pairs=arguments.pairs) for name in RECIPES]
    for result in results:
        times = ", ".join(f"{name} {t['median']:.2f} ms" for name, t in result["milliseconds_an_image"].items())
        print(f"{result['recipe']}: {times}; parts {result['parts_of_ours']}")
    others = {name: version(name) for name in ("lightly", "kornia")}
    print(record("crops", {"threads": 1, "other_versions": others, "results": results}).name)


if __name__ == "__main__":
    main()
