"""The nearest neighbors of some photos by four kinds of features, as a picture, and how many of all are of the same class.

    python -m benchmarks.neighbors PHOTOS [--picture docs/neighbors.webp] [--seed 0]

PHOTOS is a folder with a folder per class. Features: raw pixels, patches, the encoder that comes with the install, and the same adapted to
PHOTOS by the recipe. The photos shown are drawn at random, one of a class. Results: results/neighbors.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn.functional import normalize

import selfcluster as sc
from benchmarks.command_line import parser
from benchmarks.record import record
from selfcluster.data.sources import open_data
from selfcluster.models.features import raw_pixels
from selfcluster.settings.config import DataSettings

K, QUERIES, SIDE = 5, 6, 96
Kind = NDArray[np.float32]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("photos", type=Path)
    p.add_argument("--picture", type=Path)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    images = open_data(str(a.photos), DataSettings()).images
    paths = [a.photos / path for path in images.paths().to_pylist()]
    classes = np.array([path.parent.name for path in paths])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        kinds = {
            "raw pixels": raw_pixels(images, pixels=32).numpy(),
            "patches": sc.explore(str(a.photos), encoder="patches", out=out / "patches").embed(),
            "pretrained encoder": sc.explore(str(a.photos), out=out / "explored").embed(),
            "adapted to the folder": sc.train(str(a.photos), init="pretrained", seed=a.seed, out=out / "adapted").embed(),
        }
    nearest = {name: neighbors(features) for name, features in kinds.items()}
    right = {name: float((classes[rows] == classes[:, None]).mean()) for name, rows in nearest.items()}
    print(right)
    print(record("neighbors", {"photos": a.photos.name, "images": len(paths), "k": K, "of the same class": right, "seed": a.seed}))
    if a.picture:
        draw(a.picture, paths, classes, nearest, queries(classes, a.seed))


def neighbors(features: Kind) -> NDArray[np.int64]:
    """Return the K nearest other rows of each row, by the cosine of centered features."""
    rows = torch.from_numpy(features)
    rows = normalize(rows - rows.mean(dim=0))
    found = [block @ rows.T for block in rows.split(1024)]
    similarity = torch.cat(found).fill_diagonal_(-torch.inf)
    return similarity.topk(K, dim=1).indices.numpy()


def queries(classes: NDArray[np.str_], seed: int) -> list[int]:
    """Return an image of each of some classes."""
    random = np.random.default_rng(seed)
    chosen = random.permutation(np.unique(classes))[:QUERIES]
    return [int(random.choice(np.flatnonzero(classes == name))) for name in chosen]


def draw(file: Path, paths: list[Path], classes: NDArray[np.str_], nearest: dict[str, NDArray[np.int64]], rows: list[int]) -> None:
    """Draw each image with its neighbors by each kind of features; those of another class are dimmed."""
    widths = [1.0, *(width for _ in nearest for width in (0.25, *[1.0] * K))]
    figure, axes = plt.subplots(len(rows), len(widths), width_ratios=widths, figsize=(14, 14 * len(rows) / sum(widths) + 0.3), dpi=100)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - 0.3 / figure.get_figheight(), wspace=0.04, hspace=0.04)
    for axis in axes.flat:
        axis.axis("off")
    for row, query in enumerate(rows):
        axes[row, 0].imshow(thumbnail(paths[query]))
        for group, (name, found) in enumerate(nearest.items()):
            for place, other in enumerate(found[query]):
                axis = axes[row, 2 + group * (K + 1) + place]
                axis.imshow(thumbnail(paths[other]), alpha=1.0 if classes[other] == classes[query] else 0.25)
                if row == place == 0:
                    axis.set_title(name, loc="left", fontsize=11)
    with tempfile.TemporaryDirectory() as folder:
        figure.savefig(Path(folder) / "picture.png")
        Image.open(Path(folder) / "picture.png").convert("RGB").save(file, quality=80, method=6)


def thumbnail(path: Path) -> Image.Image:
    """Return the central square of a photo."""
    with Image.open(path) as image:
        return ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (SIDE, SIDE))


if __name__ == "__main__":
    main()
