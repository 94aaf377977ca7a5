"""Photos for benchmarks without data from the user: crops of the two sample images of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def photos(n: int, side: int, seed: int = 0) -> list[Image.Image]:
    """Return n square crops of random position and size, resized to `side` pixels."""
    originals, draw = [Image.fromarray(image) for image in load_sample_images().images], np.random.default_rng(seed)
    crops = []
    for i in range(n):
        image = originals[i % len(originals)]
        extent = int(draw.integers(200, min(image.size) + 1))
        left, top = (int(draw.integers(0, room - extent + 1)) for room in image.size)
        crops.append(image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + extent, top + extent)))
    return crops


def save_jpegs(images: list[Image.Image], folder: Path) -> None:
    """Save the images as numbered files in a new folder."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        image.save(folder / f"{i:05}.jpg", quality=90)
