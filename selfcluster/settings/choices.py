"""What the recipe knows about the images, and its choices with their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What the recipe knows about the images and the machine."""

    n: int
    """Number of images to train on."""
    short_side: int
    """Median short side, in pixels."""
    is_grey: bool
    """Whether fewer than one image in twenty has color."""
    mirror_distance: float
    """Distance of a mirrored image from its nearest neighbor relative to that of the image itself; 1 where mirroring does not matter."""
    accelerated: bool
    """Whether training runs on a GPU."""
    n_ranks: int = 1
    """Number of processes that share a batch."""
    adapts: bool = False
    """Whether training starts from weights that were trained on other images, and adapts them to these."""


@dataclass(frozen=True)
class Choice:
    """A value and the reason for it."""

    value: Any
    reason: str
