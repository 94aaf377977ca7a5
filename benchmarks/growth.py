"""Time and memory of DeepCluster's assign phase for growing numbers of images.

    python -m benchmarks.growth [--sizes 10000 100000 1000000] [--k 100] [--iterations 10] [--repeats 3] [--folder FOLDER]

Whitening, k-means and uniform sampling, without the network. Features are drawn as in `benchmarks.kmeans`, 256 wide, and stored in a
memory-mapped file in --folder (default: the system's temporary folder). Each measurement is a new process. Memory is the peak above that
before the call: private bytes, and all resident bytes including cached pages of the mapped file. Results: results/growth.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from argparse import SUPPRESS, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.command_line import parser
from benchmarks.kmeans import mixture
from benchmarks.markdown import mib
from benchmarks.peak import peak_of
from benchmarks.record import record, spread
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.whitening import fit_whitening
from selfcluster.methods.deepcluster import uniform_over_clusters
from selfcluster.models.rows import Rows, map_rows


def assign_phase(features: np.ndarray, k: int, iterations: int) -> None:
    """Go from the features of an epoch to the order of its images."""
    whitened = map_rows(Rows(np.arange(len(features)), features), fit_whitening(features), torch.device("cpu"))
    result = kmeans(whitened.values, k, iterations=iterations)
    uniform_over_clusters(result.assignments.numpy(), len(features), 0)


def measure(n: int, a: Namespace) -> dict[str, Any]:
    """Return seconds and peak bytes for n images."""
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        file = Path(folder) / "features.npy"
        features = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n, a.width))
        row = 0
        for block in mixture(n, a.width):
            features[row : row + len(block)] = block
            row += len(block)
        features.flush()
        command = [sys.executable, "-m", "benchmarks.growth", "--measure", str(file), "--k", str(a.k)]
        command += ["--iterations", str(a.iterations), "--threads", str(a.threads)]
        runs = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) for _ in range(a.repeats)]
    return {
        "n": n,
        "file_bytes": 4 * n * a.width,
        "seconds": spread([run["seconds"] for run in runs]),
        "microseconds_per_image": spread([run["seconds"] / n * 1e6 for run in runs]),
        "peak_bytes": spread([run["anonymous"] for run in runs]),
        "peak_bytes_with_mapped_pages": spread([run["resident"] for run in runs]),
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--k", type=int, default=100)
    p.add_argument("--iterations", type=int, default=10)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--folder", type=Path, default=None)
    p.add_argument("--measure", type=Path, help=SUPPRESS)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    if a.measure:
        assign_phase(next(mixture(2000, 16)), 10, 2)  # load libraries and start threads
        features = np.load(a.measure, mmap_mode="r")
        print(json.dumps(peak_of(lambda: assign_phase(features, a.k, a.iterations))))
        return
    results = []
    for n in a.sizes:
        results.append(measure(n, a))
        seconds, per_image, peak = (results[-1][name]["median"] for name in ("seconds", "microseconds_per_image", "peak_bytes"))
        print(f"{n:,} images: {seconds:.2f} s, {per_image:.1f} us per image, {mib(peak)}", flush=True)
    settings = {name: getattr(a, name) for name in ("width", "k", "iterations", "threads")}
    settings["wait_policy"] = os.environ.get("OMP_WAIT_POLICY", "default")  # see benchmarks.kmeans
    print(f"-> {record('growth', {**settings, 'results': results}).name}")


if __name__ == "__main__":
    main()
