"""Real photos for benchmarks that need no data of the user's: boxes of the two that come with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def photos(n: int, side: int, seed: int = 0) -> list[Image.Image]:
    """n square boxes of different places and extents, resized to `side` pixels."""
    whole, draw = [Image.fromarray(image) for image in load_sample_images().images], np.random.default_rng(seed)
    found = []
    for i in range(n):
        image = whole[i % len(whole)]
        extent = int(draw.integers(200, min(image.size) + 1))
        left, top = (int(draw.integers(0, room - extent + 1)) for room in image.size)
        found.append(image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + extent, top + extent)))
    return found


def as_jpegs(images: list[Image.Image], folder: Path) -> Path:
    """The images as files of a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i:05}.jpg", quality=90)
    return folder
