"""The tests without labels that decide the page's verdict, for encoders that know something and for some that know nothing.

    python -m benchmarks.trust NAME DATA [--minutes 3]

The pretrained encoder, a histogram of colors with k-means, a network after one step and after 20, and SwAV after some minutes, each with the
clusters that its page shows. Results: results/trust-NAME.json.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.command_line import parser
from benchmarks.record import record
from selfcluster import Run, explore, kmeans, train
from selfcluster.data import crops
from selfcluster.evaluation import trust
from selfcluster.models.features import prepared_images
from selfcluster.reporting.report import _new_clusters, _trust
from selfcluster.reporting.verdict import judge


def histogram(pixels: Tensor) -> Tensor:
    """Return the square roots of the shares of 64 colors in normalized images."""
    level = ((pixels.clamp(-2, 2) + 2) * 0.99).long()
    return one_hot((16 * level[:, 0] + 4 * level[:, 1] + level[:, 2]).flatten(1), 64).float().mean(dim=1).sqrt()


def of_run(run: Run) -> dict[str, Any]:
    """Return the results of the tests for a run, and the state that its page shows."""
    data = run.opened.data()
    found = _trust(run.opened, data, _new_clusters(run.opened, data, None, 0))
    return figures(found, judge(run.metrics, run.config, trust=found).state)


def of_histogram(run: Run) -> dict[str, Any]:
    """Return the results for the histogram, with as many clusters as the run has."""
    data, clustered = run.opened.data(), run.cluster()
    pixels = run.config.crops.crop_pixels[0]
    rows = torch.cat([histogram(crops.normalize(batch)) for batch, _ in prepared_images(data.images, pixels=pixels, threads=2)])
    clusters = kmeans(rows - rows.mean(dim=0), len(clustered.summaries), seed=0).assignments
    looks = torch.from_numpy(clustered.thumbnails)
    found = trust.measure(histogram, data.images, np.arange(len(rows)), rows, looks, clusters, pixels=pixels, threads=2)
    return figures(found, judge([], run.config, trust=found).state)


def figures(found: trust.Trust | None, state: str) -> dict[str, Any]:
    assert found is not None
    return {**dataclasses.asdict(found), "state": state}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("name")
    p.add_argument("data")
    p.add_argument("--minutes", type=float, default=3)
    a = p.parse_args()
    trained: dict[str, dict[str, Any]] = {
        "network, 1 step": {"max_steps": 1},
        "network, 20 steps": {"max_steps": 20},
        f"SwAV, {a.minutes:g} minutes": {"max_minutes": a.minutes},
    }
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        pretrained = explore(a.data, out=Path(folder) / "explore")
        found["pretrained"] = of_run(pretrained)
        found["color histogram"] = of_histogram(pretrained)
        for name, length in trained.items():
            found[name] = of_run(train(a.data, method="swav", out=Path(folder) / name.replace(" ", "-"), on_collapse="warn", **length))
    for name, result in found.items():
        print(name, {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()})
    print(f"-> {record(f'trust-{a.name}', {'name': a.name, 'found': found}).name}")


if __name__ == "__main__":
    main()
