"""The recipe: settings from the number, size and channels of the images, each with its reason.

The papers' settings are for 1.3 million photos on 64 GPUs. What a folder of 5,000 thumbnails wants is another matter, and asking
the user to know it would be asking for the result. Every value here can be overridden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

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


GLYPH_MIRROR_DISTANCE = 1.15
"""Above this the images are taken for glyphs."""


@dataclass(frozen=True)
class Choice:
    """A value and why."""

    value: Any
    reason: str


def recipe(facts: Facts, config: Any, given: Mapping[str, Any]) -> dict[str, Choice]:
    """Settings for these images.

    Args:
        facts: of the images.
        config: with what the user has chosen already.
        given: names of those settings; the rest of the recipe takes them into account.
    """
    raise NotImplementedError
