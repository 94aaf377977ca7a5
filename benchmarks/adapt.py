"""Adapting the pretrained encoder: nearest neighbors and clusters before and after `train --init pretrained`.

    python -m benchmarks.adapt NAME DATA --test DATA2 [--seeds 3] [--methods deepcluster-v2 ...] [--set SETTING=VALUE ...]

Both encoders see the same images; nearest neighbors are searched in the training images, clusters are those of the test images and of the
training images, by k-means with as many clusters as classes. Results: results/adapt-NAME.json.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command_line import parser, settings_from
from benchmarks.record import record, spread
from selfcluster.api import train
from selfcluster.data.sources import open_data
from selfcluster.device import n_threads
from selfcluster.evaluation import clusters, knn
from selfcluster.methods import build_model
from selfcluster.models.features import extract_features
from selfcluster.models.model import ClusterModel
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import METHOD_SETTINGS, DataSettings, flatten

Sides = tuple[tuple[Any, np.ndarray], tuple[Any, np.ndarray]]


def sides_of(a: Namespace) -> Sides:
    """Return images and labels to train and to test on."""
    train_data, test_data = (open_data(source, DataSettings()).images for source in (a.data, a.test))
    assert train_data.labels is not None
    assert test_data.labels is not None
    return (train_data, train_data.labels.codes), (test_data, test_data.labels.renamed(train_data.labels.names).codes)


def figures(model: ClusterModel, run: OpenRun, sides: Sides) -> dict[str, float]:
    """Return percentages of nearest neighbors and clusters by the features of a network."""
    how: dict[str, Any] = dict(pixels=run.pixels, interpolation=run.config.model.interpolation, device=run.device)
    rows = [extract_features(model.eval().encode, images, threads=n_threads(run.config), **how) for images, _ in sides]
    train_rows, test_rows = (of_side - rows[0].mean(dim=0) for of_side in rows)
    (_, train_labels), (_, test_labels) = sides
    found = dict(knn.measure(train_rows, train_labels, test_rows, test_labels, ks=(5, 20)))
    of_test = dict(clusters.measure(test_rows, test_labels))
    of_train = dict(clusters.measure(train_rows, train_labels))
    return {
        "knn_k5": 100 * found["eval/knn_top1_k5"],
        "knn_k20": 100 * found["eval/knn_top1_k20"],
        "test_clusters": 100 * of_test["cluster/accuracy"],
        "test_nmi": of_test["cluster/nmi"],
        "train_clusters": 100 * of_train["cluster/accuracy"],
        "train_nmi": of_train["cluster/nmi"],
    }


def measure(a: Namespace, sides: Sides, method: str, seed: int) -> dict[str, Any]:
    """Train with a seed, and compare the encoder with the one that it started from."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = train(a.data, method=method, init="pretrained", out=Path(folder) / "run", seed=seed, **settings_from(a.set))
        seconds = time.perf_counter() - began
    opened = run.opened
    before = build_model(run.config).to(opened.device)
    result = {"before": figures(before, opened, sides), "after": figures(opened.model, opened, sides)}
    return {"method": method, "seed": seed, "train_seconds": seconds, **result, "settings": flatten(run.config)}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("name")
    p.add_argument("data")
    p.add_argument("--test", required=True)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--methods", nargs="*", default=["deepcluster-v2"], choices=list(METHOD_SETTINGS))
    p.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    a = p.parse_args()
    torch.set_num_threads(2)
    sides, runs = sides_of(a), []
    for method in a.methods:
        for seed in range(a.seeds):
            runs.append(measure(a, sides, method, seed))
            one = runs[-1]
            gains = {name: f"{one['before'][name]:.3f} -> {one['after'][name]:.3f}" for name in one["after"]}
            print(f"{method}, seed {seed}: {one['train_seconds']:.0f} s, {gains}", flush=True)
    summary = {
        method: {
            name: spread([run["after"][name] - run["before"][name] for run in runs if run["method"] == method]) for name in runs[0]["after"]
        }
        for method in a.methods
    }
    print(f"-> {record(f'adapt-{a.name}', {'name': a.name, 'gains': summary, 'runs': runs}).name}")


if __name__ == "__main__":
    main()
