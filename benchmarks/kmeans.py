"""K-means compared with faiss and scikit-learn: same points, starting centroids, iterations and threads.

    pip install 'selfcluster[faiss]'
    python -m benchmarks.kmeans [--sizes 50000 500000] [--ks 100 1000 3000] [--iterations 10] [--repeats 3]

Points are drawn, with a seed, from 1,000 Gaussians of equal weight in 128 dimensions. Dimension j has standard deviation (1 + j)^-0.5
between the means of the Gaussians, and half of that within each, so the spectrum decays like that of features. Numbers of clusters above
1,000 are measured on the smallest size only.

All return centroids and assignments. faiss's training does not return assignments, so they are computed afterwards; its time
without that is recorded too. The contestants take turns (A B C A B C ...) in one process, and ratios are computed turn by turn. A
contestant whose first turn takes longer than --slow seconds gets no others. Inertia is computed from each one's centroids by the same
float64 function. Memory is the peak above points and libraries, in a new process for each. Results: results/kmeans.json.

Each library has its own OpenMP runtime, whose idle threads spin for a while. If the machine has other work, this distorts the times
many times over; OMP_WAIT_POLICY=passive, set for all of them, prevents it. The value is recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from benchmarks.command_line import parser
from benchmarks.markdown import mib, ratio
from benchmarks.peak import peak_of
from benchmarks.record import record, spread
from selfcluster.clustering.kmeans import kmeans

N_GAUSSIANS = 1000
Result = tuple[np.ndarray, dict[str, float]]
"""Centroids and seconds."""


def mixture(n: int, d: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield the points of the module's docstring, float32, in blocks of at most 10,000 rows; the first points do not depend on n."""
    deviation = (1 + np.arange(d)) ** -0.5
    means = np.random.default_rng([seed]).normal(size=(N_GAUSSIANS, d)) * deviation
    for start in range(0, n, 10_000):
        draw = np.random.default_rng([seed, 1 + start])
        rows = means[draw.integers(N_GAUSSIANS, size=10_000)] + 0.5 * deviation * draw.normal(size=(10_000, d))
        yield rows[: n - start].astype(np.float32)


def _selfcluster(points: np.ndarray, start: np.ndarray, iterations: int) -> Result:
    began = time.perf_counter()
    result = kmeans(points, len(start), init=start, iterations=iterations)
    return result.centroids.numpy(), {"selfcluster": time.perf_counter() - began}


def _faiss(points: np.ndarray, start: np.ndarray, iterations: int) -> Result:
    import faiss

    n, d = points.shape
    began = time.perf_counter()
    # By default, faiss uses at most 256 points per centroid.
    model = faiss.Kmeans(d, len(start), niter=iterations, min_points_per_centroid=1, max_points_per_centroid=n, nredo=1)
    model.train(points, init_centroids=start)
    trained = time.perf_counter()
    model.assign(points)
    return model.centroids, {"faiss": time.perf_counter() - began, "faiss without assignment": trained - began}


def _scikit_learn(points: np.ndarray, start: np.ndarray, iterations: int) -> Result:
    began = time.perf_counter()
    model = KMeans(len(start), init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(points)
    return model.cluster_centers_, {"scikit-learn": time.perf_counter() - began}


CONTESTANTS: dict[str, Callable[[np.ndarray, np.ndarray, int], Result]] = {
    "selfcluster": _selfcluster,
    "faiss": _faiss,
    "scikit-learn": _scikit_learn,
}


def starting_centroids(points: np.ndarray, k: int) -> np.ndarray:
    return points[np.random.default_rng(k).choice(len(points), size=k, replace=False)]


def inertia_of(points: np.ndarray, centroids: np.ndarray) -> float:
    """Return the sum of squared distances to the nearest centroid, in float64."""
    origin = points.mean(axis=0, dtype=np.float64)
    targets = torch.from_numpy(centroids.astype(np.float64) - origin)
    total = 0.0
    for start in range(0, len(points), 4096):
        rows = torch.from_numpy(points[start : start + 4096].astype(np.float64) - origin)
        nearest = torch.addmm(targets.square().sum(dim=1) / 2, rows, targets.T, alpha=-1).argmin(dim=1)
        total += float((rows - targets[nearest]).square().sum())
    return total


def measure(points: np.ndarray, k: int, *, iterations: int, n_repeats: int, slow: float) -> dict[str, Any]:
    """Return each contestant's seconds and inertia, and the ratios of our time to the others'."""
    start = starting_centroids(points, k)
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
    timed = list(turns[0])
    return {
        "n": len(points),
        "d": points.shape[1],
        "k": k,
        "seconds": {name: spread([t[name] for t in turns if name in t]) for name in timed},
        "our_seconds_over": {
            name: spread([t["selfcluster"] / t[name] for t in turns if name in t and "selfcluster" in t]) for name in timed[1:]
        },
        "inertia": inertia,
        "inertia_over_ours": {name: inertia[name] / inertia["selfcluster"] for name in inertia},
    }


def peaks(points: np.ndarray, k: int, *, iterations: int, threads: int) -> dict[str, int]:
    """Return each contestant's peak bytes above points and libraries."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "points.npy"
        np.save(file, points)
        found = {}
        for name in CONTESTANTS:
            command = [sys.executable, "-m", "benchmarks.kmeans", "--peak-of", name, "--points", str(file), "--ks", str(k)]
            command += ["--iterations", str(iterations), "--threads", str(threads)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            found[name] = int(json.loads(output)["resident"])
        return found


def _warm_up(names: list[str], d: int) -> None:
    """Load libraries and start threads."""
    points = next(mixture(2000, d))
    for name in names:
        CONTESTANTS[name](points, points[:20], 2)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--sizes", type=int, nargs="+", default=[50_000, 500_000])
    p.add_argument("--ks", type=int, nargs="+", default=[100, 1000, 3000])
    p.add_argument("--dimensions", type=int, default=128)
    p.add_argument("--iterations", type=int, default=10)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--slow", type=float, default=60.0)
    p.add_argument("--peak-of", choices=CONTESTANTS, help=SUPPRESS)
    p.add_argument("--points", type=Path, help=SUPPRESS)
    a = p.parse_args()
    import faiss

    torch.set_num_threads(a.threads)
    faiss.omp_set_num_threads(a.threads)
    threadpool_limits(a.threads)
    if a.peak_of:
        points = np.load(a.points)
        start = starting_centroids(points, a.ks[0])
        _warm_up([a.peak_of], points.shape[1])
        print(json.dumps(peak_of(lambda: CONTESTANTS[a.peak_of](points, start, a.iterations))))
        return
    _warm_up(list(CONTESTANTS), a.dimensions)
    results = []
    for n in a.sizes:
        points = np.concatenate(list(mixture(n, a.dimensions)))
        for k in a.ks:
            if k > N_GAUSSIANS and n > min(a.sizes):
                continue
            figures = measure(points, k, iterations=a.iterations, n_repeats=a.repeats, slow=a.slow)
            figures["peak_bytes"] = peaks(points, k, iterations=a.iterations, threads=a.threads)
            results.append(figures)
            print(f"{n:,} points, K = {k:,}:")
            for name in CONTESTANTS:
                over = figures["our_seconds_over"].get(name)
                peak, inertia = mib(figures["peak_bytes"][name]), figures["inertia"][name]
                line = f"  {name}: {figures['seconds'][name]['median']:.2f} s, {peak}, inertia {inertia:,.1f}"
                print(line + (f", our time over its {ratio(over)}" if over else ""), flush=True)
    settings = {"iterations": a.iterations, "threads": a.threads, "wait_policy": os.environ.get("OMP_WAIT_POLICY", "default")}
    versions = {name: version(name) for name in ("faiss-cpu", "threadpoolctl")}
    print(f"-> {record('kmeans', {**settings, 'other_versions': versions, 'results': results}).name}")


if __name__ == "__main__":
    main()
