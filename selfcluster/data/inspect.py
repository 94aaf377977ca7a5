"""Facts about the images that the recipe is based on, from a sample."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate, normalize

from selfcluster import distributed
from selfcluster.data.crops import resize_center
from selfcluster.data.readers.images import Images, sample_of
from selfcluster.errors import DataError
from selfcluster.settings.choices import Facts

_N_SAMPLED = 256

_COLORED = 16
"""Difference of the channels, in grey levels, from which a pixel is colored; JPEG alone causes a few."""


def look_at(images: Images, n: int, device: torch.device) -> Facts:
    """Return facts about the images, from an evenly spread sample.

    Args:
        images: the images.
        n: number of images to train on.
        device: device to train on.
    Raises:
        DataError: no image of the sample can be read.
    """
    sides, colored, thumbnails = [], [], []
    for image in sample_of(images, _N_SAMPLED, lambda height, width: 128 / min(height, width)):
        sides.append(min(image.size))
        spread = image.pixels.amax(dim=0).int() - image.pixels.amin(dim=0).int()
        colored.append(float((spread > _COLORED).float().mean()) > 0.02)
        thumbnails.append(resize_center(image.pixels, 32).float().mean(dim=0))
    if not sides:
        raise DataError(f"none of {min(len(images), _N_SAMPLED)} sampled images can be read (first: {images.path(0)!r}); check the data")
    is_grey = float(np.mean(colored)) < 0.05
    mirror_distance = _mirror_distance(torch.stack(thumbnails)) if is_grey and len(thumbnails) > 1 else 1.0
    return Facts(n, int(np.median(sides)), is_grey, mirror_distance, device.type != "cpu", distributed.n_ranks())


def _mirror_distance(thumbnails: torch.Tensor) -> float:
    """Return the distance of mirrored images to their nearest neighbors, relative to that of the images themselves."""
    small = interpolate(thumbnails[:, None], (16, 16), mode="area")
    images, mirrored = (normalize(x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True)) for x in (small, small.flip(-1)))
    own = torch.cdist(images, images).fill_diagonal_(torch.inf).amin(dim=1)
    other = torch.cdist(mirrored, images).fill_diagonal_(torch.inf).amin(dim=1)
    return float(other.mean() / own.mean().clamp(min=1e-6))
