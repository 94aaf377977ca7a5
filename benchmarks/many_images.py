"""Time and memory of clustering growing numbers of images, from features that are there.

    python -m benchmarks.many_images [--sizes 10000 100000 1000000] [--width 1280] [--folder FOLDER]

Clusters as `explore` makes them: their number, the cluster of each image, outliers, copies, and the map. Features are drawn as in
`benchmarks.kmeans`, and mapped from a file in --folder (default: the system's temporary folder), as those of a run are. Images are single
colors of 8 x 8 pixels, so no pair of them is a copy, and next to nothing is decoded. Each size is a new process. Results: results/many_images.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, Namespace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import parser
from benchmarks.kmeans import mixture
from benchmarks.markdown import mib
from benchmarks.peak import peak_of
from benchmarks.record import record, seconds_of
from selfcluster import Run, explore
from selfcluster.clustering.duplicates import thumbnails
from selfcluster.data.sources import open_data
from selfcluster.inference.clusters import clusters_of, find_in_features, readable_features, unit_rows
from selfcluster.inference.embeddings import Embeddings
from selfcluster.settings.config import DataSettings


def write_rows(file: Path, n: int, width: int) -> None:
    """Write features and thumbnails, as a run keeps them."""
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n, width + thumbnails.width))
    looks, place = np.random.default_rng(1), 0
    for block in mixture(n, width):
        rows[place : place + len(block), :width] = block
        rows[place : place + len(block), width:] = looks.random((len(block), thumbnails.width), dtype=np.float32)
        place += len(block)
    rows.flush()


def cluster(run: Run, file: Path, width: int) -> dict[str, float]:
    """Cluster the rows; return the number of clusters, and seconds until they were found."""
    rows = np.load(file, mmap_mode="c")
    data = open_data(np.broadcast_to(np.arange(len(rows), dtype=np.uint8)[:, None, None], (len(rows), 8, 8)), DataSettings())
    embeddings = Embeddings(rows[:, :width], rows[:, width:])
    _, features = readable_features(embeddings)
    found: list[Any] = []
    seconds = seconds_of(lambda: found.append(find_in_features(unit_rows(features, features.mean(dim=0)), "auto", 0)))
    del features
    clusters = clusters_of(run.opened, data, embeddings, found[0], seed=0)
    return {"clusters": len(clusters.summaries), "seconds_to_find": seconds}


def measure(a: Namespace) -> dict[str, Any]:
    """Cluster in this process."""
    with tempfile.TemporaryDirectory() as folder:
        small = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
        run = explore(small, out=Path(folder) / "run", encoder="patches", k=2)
        found: dict[str, float] = {}
        return {**peak_of(lambda: found.update(cluster(run, a.measure, a.width))), **found}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    p.add_argument("--width", type=int, default=1280)
    p.add_argument("--folder", type=Path, default=None)
    p.add_argument("--measure", type=Path, help=SUPPRESS)
    a = p.parse_args()
    if a.measure:
        print(json.dumps(measure(a)))
        return
    results = []
    for n in a.sizes:
        with tempfile.TemporaryDirectory(dir=a.folder) as folder:
            file = Path(folder) / "rows.npy"
            write_rows(file, n, a.width)
            command = [sys.executable, "-m", "benchmarks.many_images", "--width", str(a.width), "--measure", str(file)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            results.append({"n": n, "file_bytes": file.stat().st_size, **json.loads(output.splitlines()[-1])})
        print(f"{n:,} images: {results[-1]['seconds']:.0f} s, {mib(results[-1]['anonymous'])}", flush=True)
    print(f"-> {record('many_images', {'width': a.width, 'results': results}).name}")


if __name__ == "__main__":
    main()
