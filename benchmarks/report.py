"""Time, memory and size of a report for growing numbers of images.

    python -m benchmarks.report cifar10-train.npz cifar10-val.npz [--sizes 1000 10000 50000] [--k 100] [--repeats 3]

Measured from a `Page` to the bytes of the file (neighbors, thumbnails, galleries); without training, embedding, clustering and the search for
near-duplicates. Features are 13 x 13 pixels, 507 wide; clusters come from k-means; the map shows two principal components.
Each measurement is a new process. Results: results/report.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.command_line import parser
from benchmarks.peak import peak_of
from benchmarks.record import record, spread
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.whitening import fit_whitening
from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.sources import open_data
from selfcluster.models.features import raw_pixels
from selfcluster.reporting.page import Page
from selfcluster.reporting.render import build
from selfcluster.runs.environment import Environment
from selfcluster.settings.config import DataSettings, default_config


def page_of(files: list[Path], n: int, k: int) -> Page:
    """Return a page of the first n images of these files, in k clusters."""
    arrays = [open_data(file, DataSettings()).images for file in files]
    images = ArrayImages(np.concatenate([images.array for images in arrays if isinstance(images, ArrayImages)])[:n])
    features = raw_pixels(images, pixels=13)
    clusters = kmeans(features, k)
    nearest = torch.cdist(features, clusters.centroids).topk(2, dim=1, largest=False).values.numpy()
    assignments = clusters.assignments.numpy()
    order = np.lexsort((nearest[:, 0], assignments))
    rank = np.empty(len(features), dtype=np.int32)
    rank[order] = np.concatenate([np.arange(size) for size in np.bincount(assignments)])
    plane = fit_whitening(features.numpy())(features)[:, :2].numpy()
    table = pa.table(
        {
            "path": images.paths().cast(pa.string()),
            "index": np.arange(len(features)),
            "cluster": assignments.astype(np.int32),
            "distance": nearest[:, 0],
            "margin": nearest[:, 1] - nearest[:, 0],
            "rank_in_cluster": rank,
            "x": plane[:, 0],
            "y": plane[:, 1],
            "is_outlier": np.zeros(n, dtype=bool),
            "duplicate_of": pa.nulls(n, pa.int64()),
        }
    )
    where = " and ".join(file.name for file in files)
    return Page("benchmark", where, default_config("swav"), [], Environment(), None, table, features.numpy(), images)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("files", type=Path, nargs="+")
    p.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    p.add_argument("--k", type=int, default=100)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--measure", type=int, default=0, help=SUPPRESS)
    a = p.parse_args()
    if a.measure:
        page, built = page_of(a.files, a.measure, a.k), []
        peak = peak_of(lambda: built.append(build(page)))
        print(json.dumps({**peak, "bytes": len(built[0])}))
        return
    results: list[dict[str, Any]] = []
    for n in a.sizes:
        command = [sys.executable, "-m", "benchmarks.report", *map(str, a.files), "--measure", str(n), "--k", str(a.k)]
        runs = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) for _ in range(a.repeats)]
        seconds = spread([run["seconds"] for run in runs])
        results.append({"n": n, "seconds": seconds, "peak_bytes": spread([run["anonymous"] for run in runs]), "bytes": runs[0]["bytes"]})
        print(f"{n:,} images: {seconds['median']:.1f} s, {runs[0]['bytes'] / 1e6:.1f} MB", flush=True)
    print(f"-> {record('report', {'k': a.k, 'results': results}).name}")


if __name__ == "__main__":
    main()
