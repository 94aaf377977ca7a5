"""Patches: how well nearest neighbors classify, and how each setting changes that.

    python -m benchmarks.patches search NAME DATA --test DATA2 [--bank 10000] [--n-codes 1024]     # one setting changed at a time
    python -m benchmarks.patches final NAME DATA --test DATA2 [--k 20] [--seeds 3]                 # as the package comes

Features are those of `--encoder patches`, already centered; k nearest neighbors are weighted by exp(cosine / 0.1).
Results: results/patches-search-NAME.json and results/patches-NAME.json.
"""

from __future__ import annotations

import dataclasses
import time
from argparse import Namespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command_line import parser
from benchmarks.record import record, spread
from selfcluster import randomness
from selfcluster.data.inspect import look_at
from selfcluster.data.readers.images import Images
from selfcluster.data.sources import open_data
from selfcluster.device import precision_of, start
from selfcluster.evaluation import knn
from selfcluster.models.features import prepared_images
from selfcluster.models.patches import POWER, SAMPLE, PatchEncoder, Scale, patches_pixels, scales_of
from selfcluster.settings.config import DataSettings, default_config

CPU = torch.device("cpu")
N_FEATURES = 512

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "patch 5": {"patch": 5},
    "patch 7": {"patch": 7},
    "patch 9": {"patch": 9},
    "stride 2": {"stride": 2},
    "threshold 0.2": {"threshold": 0.2},
    "threshold 0.25": {"threshold": 0.25},
    "threshold 0.35": {"threshold": 0.35},
    "threshold 0.4": {"threshold": 0.4},
    "floor 1e-2": {"floor": 1e-2},
    "floor 1e-4": {"floor": 1e-4},
    "directions 192": {"n_directions": 192},
    "directions 768": {"n_directions": 768},
    "dropped 4": {"n_dropped": 4},
    "dropped 16": {"n_dropped": 16},
    "places 2": {"places": 2},
    "places 4": {"places": 4},
}


def prepared(images: Images, side: int) -> Tensor:
    """Return all images at this side, as the encoder sees them."""
    return torch.cat([batch for batch, _ in prepared_images(images, pixels=side, threads=2)])


@torch.no_grad()
def features(
    scales: tuple[Scale, ...], train: Tensor, test: Tensor, n_codes: int, seed: int = 0
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Fit an encoder to the training images; return the features of both, and seconds."""
    encoder, began = PatchEncoder(train.shape[-1], n_codes, N_FEATURES, scales), time.perf_counter()
    sample = train[np.sort(randomness.permutation(len(train), seed)[:SAMPLE])]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision_of(default_config("explore"), CPU) == torch.bfloat16):
        encoder.fit(sample, seed=seed)
        fitted = time.perf_counter()
        rows = [torch.cat([encoder(part.float() / 255).float() for part in images.split(256)]) for images in (train, test)]
    return rows[0], rows[1], {"fit_seconds": fitted - began, "features_seconds": time.perf_counter() - fitted}


def accuracy(train: Tensor, train_labels: np.ndarray, test: Tensor, test_labels: np.ndarray, k: int) -> float:
    return 100 * dict(knn.measure(train, train_labels, test, test_labels, ks=(k,)))[f"eval/knn_top1_k{k}"]


def powers(train: Tensor, train_labels: np.ndarray, test: Tensor, test_labels: np.ndarray, k: int) -> dict[str, float]:
    """Return the accuracy for other widths and other whitening: component i is divided by its deviation to this power."""
    deviation = train.std(dim=0) ** (1 / (1 - POWER))
    found = {}
    for width in (128, 256, N_FEATURES):
        for power in (0.0, 0.5, 0.75, 1.0):
            scale = deviation[:width].clamp(min=1e-12) ** (POWER - power)
            found[f"width {width}, power {power:g}"] = accuracy(
                train[:, :width] * scale, train_labels, test[:, :width] * scale, test_labels, k
            )
    return found


def main() -> None:
    p = parser(__doc__)
    p.add_argument("what", choices=["search", "final"])
    p.add_argument("name")
    p.add_argument("data")
    p.add_argument("--test", required=True)
    p.add_argument("--bank", type=int, default=10_000)
    p.add_argument("--n-codes", type=int)
    p.add_argument("--k", type=int, default=20)
    p.add_argument("--pixels", type=int)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    start("cpu")  # as the package does, so that memory is reused
    (search if p.parse_args().what == "search" else final)(p.parse_args())


def opened(a: Namespace) -> tuple[Tensor, np.ndarray, Tensor, np.ndarray]:
    data, test = (open_data(path, DataSettings()).images for path in (a.data, a.test))
    side = a.pixels or patches_pixels(look_at(data, len(data), CPU).short_side)
    assert data.labels is not None
    assert test.labels is not None
    return prepared(data, side), data.labels.codes, prepared(test, side), test.labels.renamed(data.labels.names).codes


def search(a: Namespace) -> None:
    train, labels, test, test_labels = opened(a)
    chosen = np.sort(randomness.permutation(len(train), 0)[: a.bank])
    train, labels, n_codes, found = train[chosen], labels[chosen], a.n_codes or 1024, {}
    for name in a.variants:
        scales = tuple(dataclasses.replace(scale, **VARIANTS[name]) for scale in scales_of(train.shape[-1]))
        of_train, of_test, seconds = features(scales, train, test, n_codes)
        found[name] = {"kNN": accuracy(of_train, labels, of_test, test_labels, a.k), **seconds}
        if name == "as it is":
            found[name] |= powers(of_train, labels, of_test, test_labels, a.k)
        print(name, {key: round(value, 1) for key, value in found[name].items()}, flush=True)
    shape = {"bank": len(train), "test": len(test), "side": train.shape[-1], "n_codes": n_codes, "k": a.k}
    print(
        record(
            f"patches-search-{a.name}", {**shape, "settings": [dataclasses.asdict(s) for s in scales_of(train.shape[-1])], "found": found}
        )
    )


def final(a: Namespace) -> None:
    train, labels, test, test_labels = opened(a)
    n_codes, runs = a.n_codes or 2048, []
    for seed in range(a.seeds):
        of_train, of_test, seconds = features(scales_of(train.shape[-1]), train, test, n_codes, seed)
        runs.append({"kNN": accuracy(of_train, labels, of_test, test_labels, a.k), **seconds})
        print(runs[-1], flush=True)
    shape = {"bank": len(train), "test": len(test), "side": train.shape[-1], "n_codes": n_codes, "k": a.k}
    print(record(f"patches-{a.name}", {**shape, **{key: spread([run[key] for run in runs]) for key in runs[0]}}))


if __name__ == "__main__":
    main()
