"""K-means beside faiss's and scikit-learn's: the same points, the same starting centroids, the same iterations and threads.

    pip install 'selfcluster[faiss]'
    python -m benchmarks.kmeans [--sizes 50000 500000] [--ks 100 1000 3000] [--iterations 10] [--repeats 3]

Points are drawn with a seed from 1,000 Gaussians of equal weight in 128 dimensions. Dimension j has standard deviation
(1 + j)^-0.5 between the means of the Gaussians, and half of it within each, so that the spectrum decays as that of features does.
k above 1,000 is measured on the smallest size only.

All return centroids and assignments. faiss's training ends without assignments, so they are asked for afterwards; its time without
that is told too. Times are taken in turns (A B C A B C ...) in one process, and ratios turn by turn; a contestant whose first turn
takes longer than --slow seconds has no further one. Inertia is computed from the centroids of each by one float64 function. Memory
is the peak above points and libraries, in a fresh process for each. Results: results/kmeans.json.

Each of the three brings an OpenMP of its own, whose idle threads spin for a while. Where the machine has other work too, that
distorts the times many times over: OMP_WAIT_POLICY=passive, set for all, prevents it. The record says whether it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from benchmarks.peak import peak_of
from benchmarks.record import record, spread
from selfcluster.clustering.kmeans import kmeans

N_GAUSSIANS = 1000
Answer = tuple[np.ndarray, dict[str, float]]
"""Centroids, and seconds."""


def mixture(n: int, d: int, seed: int = 0) -> Iterator[np.ndarray]:
    """The points of this file's docstring, in blocks of 10,000 rows or fewer, float32; a shorter mixture begins a longer one."""
    deviation = (1 + np.arange(d)) ** -0.5
    means = np.random.default_rng([seed]).normal(size=(N_GAUSSIANS, d)) * deviation
    for start in range(0, n, 10_000):
        draw = np.random.default_rng([seed, 1 + start])
        rows = means[draw.integers(N_GAUSSIANS, size=10_000)] + 0.5 * deviation * draw.normal(size=(10_000, d))
        yield rows[: n - start].astype(np.float32)


def _selfcluster(points: np.ndarray, start: np.ndarray, iterations: int) -> Answer:
    began = time.perf_counter()
    found = kmeans(points, len(start), init=start, iterations=iterations)
    return found.centroids.numpy(), {"selfcluster": time.perf_counter() - began}


def _faiss(points: np.ndarray, start: np.ndarray, iterations: int) -> Answer:
    import faiss

    began = time.perf_counter()
    # Or it would take 256 points a centroid.
    found = faiss.Kmeans(
        points.shape[1], len(start), niter=iterations, min_points_per_centroid=1, max_points_per_centroid=len(points), nredo=1
    )
    found.train(points, init_centroids=start)
    trained = time.perf_counter()
    found.assign(points)
    return found.centroids, {"faiss": time.perf_counter() - began, "faiss without assignment": trained - began}


def _scikit_learn(points: np.ndarray, start: np.ndarray, iterations: int) -> Answer:
    began = time.perf_counter()
    found = KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(points)
    return found.cluster_centers_, {"scikit-learn": time.perf_counter() - began}


CONTESTANTS: dict[str, Callable[[np.ndarray, np.ndarray, int], Answer]] = {
    "selfcluster": _selfcluster,
    "faiss": _faiss,
    "scikit-learn": _scikit_learn,
}


def inertia_of(points: np.ndarray, centroids: np.ndarray) -> float:
    """Sum of the squared distances to the nearest centroid, in float64 throughout."""
    origin = points.mean(axis=0, dtype=np.float64)
    targets = torch.from_numpy(centroids.astype(np.float64) - origin)
    total = 0.0
    for start in range(0, len(points), 4096):
        rows = torch.from_numpy(points[start : start + 4096].astype(np.float64) - origin)
        chosen = torch.addmm(targets.square().sum(dim=1) / 2, rows, targets.T, alpha=-1).argmin(dim=1)
        total += float((rows - targets[chosen]).square().sum())
    return total


def measure(points: np.ndarray, k: int, *, iterations: int, n_repeats: int, slow: float) -> dict[str, Any]:
    """Seconds and inertia of each contestant, and our time over theirs."""
    start = points[np.random.default_rng(k).choice(len(points), size=k, replace=False)]
    turns: list[dict[str, float]] = []
    inertia: dict[str, float] = {}
    for turn in range(n_repeats):
        turns.append({})
        for name, contestant in CONTESTANTS.items():
            if turn == 0 or turns[0][name] <= slow:
                centroids, seconds = contestant(points, start, iterations)
                turns[-1] |= seconds
                if turn == 0:
                    inertia[name] = inertia_of(points, centroids)
    measured = list(turns[0])
    return {
        "n": len(points),
        "d": points.shape[1],
        "k": k,
        "seconds": {name: spread([t[name] for t in turns if name in t]) for name in measured},
        "our_seconds_over": {
            name: spread([t["selfcluster"] / t[name] for t in turns if name in t and "selfcluster" in t]) for name in measured[1:]
        },
        "inertia": inertia,
        "inertia_over_ours": {name: inertia[name] / inertia["selfcluster"] for name in inertia},
    }


def peaks(points: np.ndarray, k: int, *, iterations: int, threads: int) -> dict[str, int]:
    """Bytes that each contestant takes above points and libraries."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.npy"
        np.save(file, points)
        found = {}
        for name in CONTESTANTS:
            asked = ["--peak-of", name, "--points", str(file), "--ks", str(k), "--iterations", str(iterations), "--threads", str(threads)]
            out = subprocess.run([sys.executable, "-m", "benchmarks.kmeans", *asked], stdout=subprocess.PIPE, text=True, check=True).stdout
            found[name] = int(json.loads(out)["resident"])
        return found


def _peak(name: str, file: Path, k: int, iterations: int) -> dict[str, int]:
    points = np.load(file)
    start = points[np.random.default_rng(k).choice(len(points), size=k, replace=False)]
    _warm_up([name], points.shape[1])
    return peak_of(lambda: CONTESTANTS[name](points, start, iterations))


def _warm_up(names: list[str], d: int) -> None:
    """Libraries are loaded, and their threads begun."""
    few = next(mixture(2000, d))
    for name in names:
        CONTESTANTS[name](few, few[:20], 2)


def _set_threads(n: int) -> None:
    import faiss

    torch.set_num_threads(n)
    faiss.omp_set_num_threads(n)
    threadpool_limits(n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--ks", type=int, nargs="+", default=[100, 1000, 3000])
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--slow", type=float, default=60.0)
    parser.add_argument("--peak-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--points", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    _set_threads(arguments.threads)
    if arguments.peak_of:
        print(json.dumps(_peak(arguments.peak_of, arguments.points, arguments.ks[0], arguments.iterations)))
        return
    _warm_up(list(CONTESTANTS), arguments.dimensions)
    results = []
    for n in arguments.sizes:
        points = np.concatenate(list(mixture(n, arguments.dimensions)))
        for k in arguments.ks:
            if k > N_GAUSSIANS and n > min(arguments.sizes):
                continue
            figures = measure(points, k, iterations=arguments.iterations, n_repeats=arguments.repeats, slow=arguments.slow)
            figures["peak_bytes"] = peaks(points, k, iterations=arguments.iterations, threads=arguments.threads)
            results.append(figures)
            print(_line(figures), flush=True)
    others = {"faiss-cpu": version("faiss-cpu"), "threadpoolctl": version("threadpoolctl")}
    kept = {"iterations": arguments.iterations, "threads": arguments.threads, "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default")}
    file = record("kmeans", {**kept, "other_versions": others, "results": results})
    print(f"-> {file.name}")


def _line(figures: dict[str, Any]) -> str:
    parts = []
    for name in CONTESTANTS:
        seconds, peak = figures["seconds"][name]["median"], figures["peak_bytes"][name] / 2**20
        part = f"{name} {seconds:.2f} s, {peak:,.0f} MiB, inertia {figures['inertia'][name]:,.1f}"
        if name in figures["our_seconds_over"]:
            ratio = figures["our_seconds_over"][name]
            part += f", ours over its {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}, {ratio['n']})"
        parts.append(part)
    return f"n {figures['n']:,} k {figures['k']:,}: " + "; ".join(parts)


if __name__ == "__main__":
    main()
