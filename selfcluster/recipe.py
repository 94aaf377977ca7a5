"""The recipe: settings from the number, size and channels of the images, each with its reason.

The papers' settings are for 1.3 million photos on 64 GPUs. What a folder of 5,000 thumbnails wants is another matter, and asking
the user to know it would be asking for the result. Every value here can be overridden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from selfcluster.config import AUGMENTATIONS, AugmentSettings, Config
from selfcluster.crops import resize_centre
from selfcluster.errors import DataError
from selfcluster.images import Images, sample_of

_N_LOOKED_AT = 256
_COLOURED = 16
"""Grey levels by which channels differ in a coloured pixel; JPEG alone makes a few."""


@dataclass(frozen=True)
class Facts:
    """What the recipe needs to know of the images."""

    n: int
    """Images to train on."""
    short_side: int
    """Median, in pixels."""
    is_grey: bool
    """Fewer than one image in twenty has colour."""
    mirror_distance: float
    """How much farther a mirrored image is from its nearest neighbour than the image itself, as a ratio; 1 where mirroring does not matter."""
    accelerated: bool
    """Whether training runs on a GPU."""


def look_at(images: Images, n: int, device: torch.device) -> Facts:
    """The facts, from a sample of the images spread evenly.

    Raises:
        DataError: none of the sample can be read.
    """
    sides, coloured, thumbnails = [], [], []
    for height, width, pixels in sample_of(images, _N_LOOKED_AT):
        sides.append(min(height, width))
        spread = pixels.amax(dim=0).int() - pixels.amin(dim=0).int()
        coloured.append(float((spread > _COLOURED).float().mean()) > 0.02)
        thumbnails.append(resize_centre(pixels, 32).float().mean(dim=0))
    if not sides:
        raise DataError(f"none of {min(len(images), _N_LOOKED_AT)} sampled images can be read (first: {images.path(0)!r}); check the data")
    is_grey = float(np.mean(coloured)) < 0.05
    mirror_distance = _mirror_distance(torch.stack(thumbnails)) if is_grey and len(thumbnails) > 1 else 1.0
    return Facts(n, int(np.median(sides)), is_grey, mirror_distance, device.type != "cpu")


def _mirror_distance(thumbnails: torch.Tensor) -> float:
    small = interpolate(thumbnails[:, None], (16, 16), mode="area")
    images, mirrored = (normalize(x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True)) for x in (small, small.flip(-1)))
    own = torch.cdist(images, images).fill_diagonal_(torch.inf).amin(dim=1)
    other = torch.cdist(mirrored, images).fill_diagonal_(torch.inf).amin(dim=1)
    return float(other.mean() / own.mean().clamp(min=1e-6))


def is_glyph(facts: Facts) -> bool:
    """Small grey images that a mirror would turn into something else: letters, digits, signs."""
    return facts.is_grey and facts.short_side <= 64 and facts.mirror_distance > GLYPH_MIRROR_DISTANCE


GLYPH_MIRROR_DISTANCE = 1.4
"""Above this the images are taken for glyphs."""


@dataclass(frozen=True)
class Choice:
    """A value and why."""

    value: Any
    reason: str


def recipe(facts: Facts, config: Config[Any], given: Container[str]) -> dict[str, Choice]:
    """Settings for these images.

    Args:
        facts: of the images.
        config: with what the user has chosen already.
        given: names of those settings; what is left open takes them into account.
    Returns:
        a choice for every setting that depends on the images, chosen by the user already or not.
    """
    advice = _images(facts)
    if "augmentation" in given:
        advice["augmentation"] = Choice(config.crops.augmentation, "chosen")
    kind = advice["augmentation"].value
    advice |= _crops(facts, kind) | _augment(facts, kind) | _network(facts, kind) | _prototypes(facts)
    batch = config.optim.batch if "batch" in given else _batch(facts)
    advice["batch"] = Choice(batch, f"for {facts.n:,} images")
    return advice | _schedule(facts, kind, batch)


def _images(facts: Facts) -> dict[str, Choice]:
    if is_glyph(facts):
        return {
            "augmentation": Choice(
                "glyph", f"small grey images that lie {facts.mirror_distance:.1f} times as far from their mirror images as from each other"
            )
        }
    if facts.is_grey:
        return {"augmentation": Choice("grey", "the images have no colour")}
    return {"augmentation": Choice("photo", "the images have colour")}


def _crops(facts: Facts, kind: str) -> dict[str, Choice]:
    side = facts.short_side
    native = f"the images are {side} pixels on their short side"
    if kind == "glyph":
        large, small = _in_fours(0.75 * side), _in_fours(0.5 * side)
        area, why = ((0.6, 1.0), (0.35, 0.6)), "a part of a glyph soon is another glyph"
        n_crops: tuple[int, ...] = (2, 4)
    elif side <= 64:
        large, small = _in_fours(side), _in_fours(0.5 * side)
        area, why = ((0.2, 1.0), (0.05, 0.2)), "small images lose their subject in smaller crops"
        n_crops = (2, 4)
    else:
        large = min(224 if facts.accelerated else 64, _in_fours(0.75 * side))
        small = 96 if large == 224 else _in_fours(0.5 * large)
        area, why = ((0.14, 1.0), (0.05, 0.14)), "as in the paper"
        n_crops = (2, 6) if facts.accelerated else (2, 4)
        native += "" if facts.accelerated else ", and there is no GPU"
    return {
        "n_crops": Choice(n_crops, "two large ones get codes, the small ones only predict"),
        "crop_pixels": Choice((large, small), native),
        "area": Choice(area, why),
    }


def _in_fours(pixels: float) -> int:
    return max(8, 4 * round(pixels / 4))


def _augment(facts: Facts, kind: str) -> dict[str, Choice]:
    strengths = AUGMENTATIONS[kind]
    reason = f"augmentation {kind}"
    if kind != "glyph" and facts.short_side <= 64:
        strengths = dataclasses.replace(
            strengths,
            brightness=0.4,
            contrast=0.4,
            saturation=min(strengths.saturation, 0.2),
            hue=min(strengths.hue, 0.1),
            blur=0.0,
        )
        reason += ", softer and without blur for small images"
    return {f.name: Choice(getattr(strengths, f.name), reason) for f in dataclasses.fields(AugmentSettings)}


def _network(facts: Facts, kind: str) -> dict[str, Choice]:
    if kind == "glyph" and facts.n <= 20_000:
        encoder, head_width, why = "resnet10_small_quarter_s2", 256, "few small images of simple shapes"
    elif facts.short_side <= 64:
        encoder = "resnet18_small" if facts.accelerated else "resnet18_small_quarter"
        head_width, why = (2048, "small images") if facts.accelerated else (512, "small images, and there is no GPU")
    elif facts.accelerated:
        encoder = "resnet50" if facts.n >= 100_000 else "resnet18"
        head_width, why = 2048, f"photos, {facts.n:,} of them"
    else:
        encoder, head_width, why = "resnet10_small_half_s2", 512, "photos, and there is no GPU"
    return {"encoder": Choice(encoder, why), "head_width": Choice(head_width, f"with {encoder}")}


def _prototypes(facts: Facts) -> dict[str, Choice]:
    # A power law through 3 prototypes a class on the digits (1,797 images, 10 classes) and on ImageNet (1.28 million, 1,000).
    k = _round_figure(min(3000, max(10, 30 * (facts.n / 1797) ** 0.7)))
    return {
        "n_prototypes": Choice(k, f"for {facts.n:,} images; 3 to 10 times the classes you expect is good"),
        "epsilon": Choice(0.05 if k >= 1000 else 0.02, "hard codes help few prototypes apart" if k < 1000 else "as in the paper"),
    }


def _round_figure(x: float) -> int:
    magnitude = 10 ** max(0, int(np.log10(x)) - 1)
    return int(round(x / magnitude) * magnitude)


def _batch(facts: Facts) -> int:
    """About a thirtieth of the images: a power of two between 16 and 256, but never more than there are."""
    return int(min(256, max(16, 2 ** round(np.log2(max(1, facts.n / 28)))), facts.n))


def _schedule(facts: Facts, kind: str, batch: int) -> dict[str, Choice]:
    steps_per_epoch = max(1, facts.n // batch)
    lr = 4.0
    return {
        "epochs": _epochs(facts, kind),
        "optimizer": Choice("lars", "as in the paper"),
        "lr": Choice(lr, "short schedules and small batches want a higher one than the paper's"),
        "final_lr": Choice(lr / 1000, "a thousandth of lr, as in the paper"),
        "warmup_epochs": Choice(0.0, "as in the paper for small batches"),
        "freeze_steps": Choice(min(5005, steps_per_epoch), "one epoch, as in the paper"),
    }


def _epochs(facts: Facts, kind: str) -> Choice:
    if kind == "glyph":
        return Choice(int(min(30, max(5, 30 * (1797 / facts.n) ** 0.5))), "simple shapes are learnt soon")
    images_wanted, most = (10_000_000, 800) if facts.accelerated else (1_000_000, 200)
    reason = f"{facts.n:,} images" + ("" if facts.accelerated else ", and there is no GPU")
    return Choice(int(min(most, max(20, images_wanted / facts.n))), reason)
