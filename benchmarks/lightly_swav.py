"""SwAV for some minutes, ours and built from lightly's parts, on the same images and with the same encoder.

    pip install 'selfcluster[bench]'
    python -m benchmarks.lightly_swav NAME DATA --test DATA2 [--minutes 5] [--seeds 1]

Ours is the recipe as it comes. lightly's transform, head, prototypes and loss have their documented settings (512 prototypes, Adam with lr 0.001,
here with a cosine schedule over the time), batches of 64, our sizes of crops, and a worker per core. kNN and clusters as in `evaluate`: of
centered features, neighbors among the training images, k-means on the test images. Results: results/lightly-swav-NAME.json.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import selfcluster as sc
from benchmarks.command_line import parser
from benchmarks.record import record, spread
from selfcluster.data.crops import normalize
from selfcluster.data.readers.images import Images
from selfcluster.data.sources import open_data
from selfcluster.evaluation import knn
from selfcluster.models.features import prepared_images
from selfcluster.settings.config import Config, DataSettings

_BATCH, _PROTOTYPES = 64, 512


class _Crops(Dataset):
    """The images through lightly's transform."""

    def __init__(self, images: Images, config: Config) -> None:
        from lightly.transforms import SwaVTransform

        crops = config.crops
        low, high = zip(*crops.area, strict=True)
        self.images, self.transform = images, SwaVTransform(crops.crop_pixels, crops.n_crops, low, high, gaussian_blur=0.0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> list[Tensor]:
        return self.transform(Image.fromarray(self.images.decode(i, lambda height, width: 1.0).pixels.permute(1, 2, 0).numpy()))


def by_lightly(images: Images, config: Config, minutes: float, seed: int) -> tuple[torch.nn.Module, int]:
    """Return the encoder after these minutes, and the number of images that it has seen."""
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes

    torch.manual_seed(seed)
    encoder = timm.create_model(config.model.encoder, num_classes=0)
    head, prototypes, criterion = SwaVProjectionHead(encoder.num_features, 512, 128), SwaVPrototypes(128, _PROTOTYPES), SwaVLoss()
    model = torch.nn.ModuleList([encoder, head, prototypes]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(
        _Crops(images, config), _BATCH, shuffle=True, drop_last=True, num_workers=os.cpu_count() or 1, persistent_workers=True
    )
    began, n = time.perf_counter(), 0
    for crops in itertools.chain.from_iterable(itertools.repeat(loader)):
        done = (time.perf_counter() - began) / (60 * minutes)
        if done >= 1:
            return encoder, n
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 + math.cos(math.pi * done)) / 2
        prototypes.normalize()
        scores = [prototypes(torch.nn.functional.normalize(head(encoder(crop)))) for crop in crops]
        loss = criterion(scores[: config.crops.n_crops[0]], scores[config.crops.n_crops[0] :])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        n += _BATCH
    raise AssertionError


@torch.no_grad()
def rows_of(encoder: torch.nn.Module, images: Images, pixels: int) -> Tensor:
    encoder.eval()
    return torch.cat([encoder(normalize(batch)) for batch, _ in prepared_images(images, pixels=pixels, threads=2)])


def figures(train: Tensor, test: Tensor, labels: np.ndarray, test_labels: np.ndarray) -> dict[str, float]:
    """Return kNN and matched accuracy of the test images."""
    center = train.mean(dim=0)
    neighbors = dict(knn.measure(train - center, labels, test - center, test_labels, ks=(20, 200)))
    rows = torch.nn.functional.normalize(test - center)
    clusters = sc.kmeans(rows, len(np.unique(test_labels)), spherical=True, init="k-means++", n_init=20, iterations=100, tolerance=1e-4)
    return {
        **{k: v for k, v in neighbors.items() if not k.endswith("_se")},
        "cluster/accuracy": sc.matched_accuracy(test_labels, clusters.assignments),
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("name")
    p.add_argument("data")
    p.add_argument("--test", required=True)
    p.add_argument("--minutes", type=float, default=5.0)
    p.add_argument("--seeds", type=int, default=1)
    a = p.parse_args()
    train, test = (open_data(path, DataSettings()).images for path in (a.data, a.test))
    assert train.labels is not None
    assert test.labels is not None
    labels, test_labels = train.labels.codes, test.labels.renamed(train.labels.names).codes
    runs: dict[str, list[dict[str, Any]]] = {"selfcluster": [], "lightly": []}
    for seed in range(a.seeds):
        with tempfile.TemporaryDirectory() as folder:
            run = sc.train(a.data, method="swav", max_minutes=a.minutes, seed=seed, out=Path(folder) / "run")
            seen = run.metrics[-1]["step"] * run.config.optim.batch
            ours = figures(*(torch.from_numpy(run.embed(path)) for path in (a.data, a.test)), labels, test_labels)
        encoder, n = by_lightly(train, run.config, a.minutes, seed)
        theirs = figures(*(rows_of(encoder, images, run.config.crops.crop_pixels[0]) for images in (train, test)), labels, test_labels)
        for name, found, images in (("selfcluster", ours, seen), ("lightly", theirs, n)):
            runs[name].append({"images": images, **found})
            print(name, runs[name][-1], flush=True)
    found = {name: {key: spread([run[key] for run in of_name]) for key in of_name[0]} for name, of_name in runs.items()}
    shape = {"name": a.name, "minutes": a.minutes, "encoder": run.config.model.encoder, "other_versions": {"lightly": version("lightly")}}
    print(f"-> {record(f'lightly-swav-{a.name}', {**shape, 'found': found}).name}")


if __name__ == "__main__":
    main()
