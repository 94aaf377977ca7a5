"""First labels from patches against those from the untrained network, by DeepCluster-v2 or SeLa-v2.

    python -m benchmarks.first_labels NAME DATA --test DATA2 [--minutes 10] [--seeds 3] [--method deepcluster-v2] [--set SETTING=VALUE ...]

Both train with the recipe's settings for the same time, which includes labeling. Nearest neighbors are searched in the training images, by the
network, by patches, and by both side by side: their unit vectors, patches weighted by 1 and by 2. Results: results/first-labels-NAME.json.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.adapt import Sides, sides_of
from benchmarks.command_line import parser, settings_from
from benchmarks.patches import accuracy, features, prepared
from benchmarks.record import record, spread
from selfcluster.api import train
from selfcluster.data.inspect import look_at
from selfcluster.device import n_threads, start
from selfcluster.evaluation import clusters
from selfcluster.models.features import extract_features
from selfcluster.models.patches import default_codes, patches_pixels, scales_of
from selfcluster.settings.config import flatten

FIRST = ("network", "patches")


def of_patches(sides: Sides) -> tuple[Tensor, Tensor]:
    """Return the centered features of patches, fitted to the training images as `explore` does."""
    images = sides[0][0]
    side = patches_pixels(look_at(images, len(images), start("cpu")).short_side)
    pixels = [prepared(of_side, side) for of_side, _ in sides]
    return features(scales_of(side), pixels[0], pixels[1], default_codes(len(images)))[:2]


def measure(a: Namespace, sides: Sides, patches: tuple[Tensor, Tensor], first: str, seed: int) -> dict[str, Any]:
    """Train with a seed, and return percentages of nearest neighbors and clusters."""
    settings = {"first_labels": first, "max_minutes": a.minutes, **settings_from(a.set)}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = train(a.data, method=a.method, out=Path(folder) / "run", seed=seed, **settings)
        seconds = time.perf_counter() - began
        rows = run.metrics
    opened = run.opened
    how: dict[str, Any] = dict(pixels=opened.pixels, device=opened.device, threads=n_threads(run.config))
    network = [extract_features(opened.model.eval().encode, images, **how) for images, _ in sides]
    network = [of_side - network[0].mean(dim=0) for of_side in network]
    (_, labels), (_, test_labels) = sides

    def knn(train_rows: Tensor, test_rows: Tensor) -> float:
        return accuracy(train_rows, labels, test_rows, test_labels, a.k)

    def beside(weight: float) -> float:
        train_rows, test_rows = (torch.cat([normalize(x), weight * normalize(y)], dim=1) for x, y in zip(network, patches, strict=True))
        return knn(train_rows, test_rows)

    return {
        "first_labels": first,
        "seed": seed,
        "train_seconds": seconds,
        "assign_seconds": sum(row.get("train/assign_seconds", 0.0) for row in rows),
        "epochs": max(row["step"] for row in rows) * run.config.optim.batch / len(labels),
        "network": knn(network[0], network[1]),
        "patches": knn(*patches),
        "both_1": beside(1),
        "both_2": beside(2),
        "test_clusters": 100 * dict(clusters.measure(network[1], test_labels))["cluster/accuracy"],
        "settings": flatten(run.config),
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("name")
    p.add_argument("data")
    p.add_argument("--test", required=True)
    p.add_argument("--minutes", type=float, default=10.0)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--method", default="deepcluster-v2", choices=["deepcluster-v2", "sela-v2"])
    p.add_argument("--first", nargs="*", default=list(FIRST), choices=list(FIRST))
    p.add_argument("--k", type=int, default=20)
    p.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    a = p.parse_args()
    torch.set_num_threads(2)
    sides, runs = sides_of(a), []
    patches = of_patches(sides)
    for seed in range(a.seeds):
        for first in a.first:
            runs.append(measure(a, sides, patches, first, seed))
            print({key: round(x, 1) if isinstance(x, float) else x for key, x in runs[-1].items() if key != "settings"}, flush=True)
    figures = [key for key, value in runs[0].items() if isinstance(value, float)]
    summary = {first: {key: spread([run[key] for run in runs if run["first_labels"] == first]) for key in figures} for first in a.first}
    print(f"-> {record(f'first-labels-{a.name}', {'name': a.name, 'method': a.method, 'k': a.k, 'summary': summary, 'runs': runs}).name}")


if __name__ == "__main__":
    main()
