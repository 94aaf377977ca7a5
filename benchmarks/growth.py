"""How time and memory of DeepCluster's assign phase grow with the number of images.

    python -m benchmarks.growth [--sizes 10000 100000 1000000] [--k 100] [--iterations 10] [--repeats 3] [--folder FOLDER]

Whitening, k-means and uniform sampling; not the network. Features are drawn as those of `benchmarks.kmeans`, 256 wide, and lie in a file that is mapped into memory, in --folder or where the
system keeps temporary files. Each measurement is a process of its own. Memory is the peak above what was there before: the bytes
that only this process holds, and all resident ones, with the pages of the mapped file that happen to be kept. Results:
results/growth.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kmeans import mixture
from benchmarks.peak import peak_of
from benchmarks.record import record, spread
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.whitening import fit_whitening
from selfcluster.methods.deepcluster import uniform_over_clusters
from selfcluster.models.rows import Rows, map_rows


def assign_phase(features: np.ndarray, k: int, iterations: int) -> None:
    """What an epoch of DeepCluster does between its features and the order of its images."""
    whitened = map_rows(Rows(np.arange(len(features)), features), fit_whitening(features), torch.device("cpu"))
    found = kmeans(whitened.values, k, iterations=iterations)
    uniform_over_clusters(found.assignments.numpy(), len(features), 0)


def write_features(file: Path, n: int, width: int) -> None:
    """The file holds n rows of generated features."""
    features = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(n, width))
    row = 0
    for block in mixture(n, width):
        features[row : row + len(block)] = block
        row += len(block)
    features.flush()


def _measured(file: Path, k: int, iterations: int) -> dict[str, float]:
    assign_phase(next(mixture(2000, 16)), 10, 2)  # libraries are loaded, and their threads begun
    features, seconds = np.load(file, mmap_mode="r"), 0.0

    def timed() -> None:
        nonlocal seconds
        began = time.perf_counter()
        assign_phase(features, k, iterations)
        seconds = time.perf_counter() - began

    return {**peak_of(timed), "seconds": seconds}


def measure(n: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds and peak bytes at n images."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file = Path(folder) / "features.npy"
        write_features(file, n, arguments.width)
        asked = ["--measure", str(file), "--k", str(arguments.k), "--iterations", str(arguments.iterations)]
        command = [sys.executable, "-m", "benchmarks.growth", *asked, "--threads", str(arguments.threads)]
        runs = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) for _ in range(arguments.repeats)]
    return {
        "n": n,
        "file_bytes": 4 * n * arguments.width,
        "seconds": spread([run["seconds"] for run in runs]),
        "microseconds_per_image": spread([run["seconds"] / n * 1e6 for run in runs]),
        "peak_bytes": spread([run["anonymous"] for run in runs]),
        "peak_bytes_with_mapped_pages": spread([run["resident"] for run in runs]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(_measured(arguments.measure, arguments.k, arguments.iterations)))
        return
    results = []
    for n in arguments.sizes:
        results.append(measure(n, arguments))
        seconds, each, peak = (results[-1][name]["median"] for name in ("seconds", "microseconds_per_image", "peak_bytes"))
        print(f"{n:,} images: {seconds:.2f} s, {each:.1f} us an image, {peak / 2**20:,.0f} MiB", flush=True)
    kept = {name: getattr(arguments, name) for name in ("width", "k", "iterations", "threads")}
    kept["wait_policy"] = os.environ.get("OMP_WAIT_POLICY", "default")  # why: see benchmarks.kmeans
    print(f"-> {record('growth', {**kept, 'results': results}).name}")


if __name__ == "__main__":
    main()
