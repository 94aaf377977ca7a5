"""The facts about the images that the recipe goes by, from a sample of them."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from selfcluster import distributed
from selfcluster.data.crops import resize_center
from selfcluster.data.readers.images import Images, sample_of
from selfcluster.errors import DataError
from selfcluster.settings.recipe import Facts

_N_LOOKED_AT = 256

_COLORED = 16
"""Grey levels by which channels differ in a colored pixel; JPEG alone makes a few."""


def look_at(images: Images, n: int, device: torch.device) -> Facts:
    """The facts, from a sample of the images spread evenly.

    Raises:
        DataError: none of the sample can be read.
    """
    sides, colored, thumbnails = [], [], []
    for image in sample_of(images, _N_LOOKED_AT, lambda height, width: 128 / min(height, width)):
        sides.append(min(image.size))
        spread = image.pixels.amax(dim=0).int() - image.pixels.amin(dim=0).int()
        colored.append(float((spread > _COLORED).float().mean()) > 0.02)
        thumbnails.append(resize_center(image.pixels, 32).float().mean(dim=0))
    if not sides:
        raise DataError(f"none of {min(len(images), _N_LOOKED_AT)} sampled images can be read (first: {images.path(0)!r}); check the data")
    is_grey = float(np.mean(colored)) < 0.05
    mirror_distance = _mirror_distance(torch.stack(thumbnails)) if is_grey and len(thumbnails) > 1 else 1.0
    return Facts(n, int(np.median(sides)), is_grey, mirror_distance, device.type != "cpu", distributed.n_ranks())


def _mirror_distance(thumbnails: torch.Tensor) -> float:
    small = interpolate(thumbnails[:, None], (16, 16), mode="area")
    images, mirrored = (normalize(x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True)) for x in (small, small.flip(-1)))
    own = torch.cdist(images, images).fill_diagonal_(torch.inf).amin(dim=1)
    other = torch.cdist(mirrored, images).fill_diagonal_(torch.inf).amin(dim=1)
    return float(other.mean() / own.mean().clamp(min=1e-6))
