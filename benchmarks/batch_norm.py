"""Running statistics of batch norm: from the large crops only, from all crops, or recomputed from whole images.

    python -m benchmarks.batch_norm [--seeds 3]

Trains on the digits with the recipe's settings. The weights are the same in all three cases, since training normalizes with the
statistics of the batch. Results: results/batch_norm.json.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any
from unittest import mock

import torch

from benchmarks.command_line import parser
from benchmarks.record import record, spread
from benchmarks.step import MetricsLog
from selfcluster.data.crops import normalize
from selfcluster.data.dataset import Data
from selfcluster.data.inspect import look_at
from selfcluster.data.sources import open_data
from selfcluster.evaluation import clusters
from selfcluster.models import model
from selfcluster.models.features import extract_features, prepared_images
from selfcluster.settings.config import Config, DataSettings
from selfcluster.settings.resolve import Profile, resolve
from selfcluster.training import loop, state

CPU = torch.device("cpu")


def measure(data: Data, seed: int) -> dict[str, float]:
    """Return the matched accuracy of the clusters in each case."""
    config = resolve(Profile("swav"), look_at(data.images, len(data.images), CPU), file={}, flags={"seed": seed}).config
    accuracy = {}
    for name, keeps in (("large crops", model.running_statistics_kept), ("all crops", lambda encoder: contextlib.nullcontext())):
        t = state.build(config, data, CPU)
        with mock.patch.object(model, "running_statistics_kept", keeps):
            loop.fit(t, MetricsLog(), None)
        accuracy[name] = _accuracy(t.model.encoder, data, config)
    encoder = copy.deepcopy(t.model.encoder).train()
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over all batches
    with torch.no_grad():
        for images, _ in prepared_images(data.images, pixels=config.crops.crop_pixels[0]):
            encoder(normalize(images))
    accuracy["whole images"] = _accuracy(encoder.eval(), data, config)
    return accuracy


def _accuracy(encoder: torch.nn.Module, data: Data, config: Config[Any]) -> float:
    features = extract_features(encoder, data.images, pixels=config.crops.crop_pixels[0], device=CPU)
    return dict(clusters.measure(features - features.mean(dim=0), data.images.labels.codes))["cluster/accuracy"]


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--seeds", type=int, default=3)
    data = open_data("digits", DataSettings())
    runs = [measure(data, seed) for seed in range(p.parse_args().seeds)]
    summary = {name: spread([run[name] for run in runs]) for name in runs[0]}
    print(f"{summary} -> {record('batch_norm', {'cluster_accuracy': summary, 'runs': runs}).name}")


if __name__ == "__main__":
    main()
