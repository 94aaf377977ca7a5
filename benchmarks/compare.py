"""Two checkouts in turns: what a change costs or saves, by the public names alone.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.compare /tmp/before . --name house

Every turn of every workload is a process of its own, before and after one right after the other. Results: results/compare-<name>.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record, spread

_TRAIN = """
import json, tempfile, numpy as np, selfcluster as sc
with tempfile.TemporaryDirectory() as folder:
    run = sc.train("digits", out=folder + "/run", method={method!r}, max_steps=120, log_steps=20, device="cpu", precision="float32")
    speeds = [row["train/images_per_second"] for row in run.metrics if "train/images_per_second" in row][1:]
    print(len(speeds) / sum(speeds))
"""

_EMBED = """
import tempfile, time, numpy as np, selfcluster as sc
images = np.random.default_rng(0).integers(0, 256, ({n}, {pixels}, {pixels}, 3), dtype=np.uint8)
with tempfile.TemporaryDirectory() as folder:
    run = sc.train(images, out=folder + "/run", max_steps=2, device="cpu", precision="float32")
    started = time.perf_counter()
    run.embed(images)
    print(time.perf_counter() - started)
"""

WORKLOADS = {
    "step of SwAV, digits": _TRAIN.format(method="swav"),
    "step of DeepCluster, digits": _TRAIN.format(method="deepcluster"),
    "crops, 2 x 32 + 4 x 16 px": """
import time, numpy as np, torch
try:
    from selfcluster import MultiCrop
except ImportError:
    from selfcluster.crops import MultiCrop
torch.set_num_threads(1)
images = torch.randint(0, 256, (128, 3, 32, 32), dtype=torch.uint8)
crops = MultiCrop((2, 4), (32, 16), ((0.3, 1.0), (0.1, 0.3)), "photo")
index, times = np.arange(128), []
for epoch in range(150):
    started = time.perf_counter()
    crops.apply(images, crops.draw(index, seed=0, epoch=epoch))
    times.append(time.perf_counter() - started)
print(float(np.median(times[10:])))
""",
    "k-means, 50,000 x 128, K = 1,000": """
import time, torch
try:
    from selfcluster.clustering.kmeans import kmeans
except ImportError:
    from selfcluster.kmeans import kmeans
points = torch.randn(50_000, 128, generator=torch.Generator().manual_seed(0))
kmeans(points[:5000], 100, iterations=2, seed=0)
started = time.perf_counter()
kmeans(points, 1000, iterations=10, seed=0)
print(time.perf_counter() - started)
""",
    "embedding, 6,000 images of 32 px": _EMBED.format(n=6000, pixels=32),
    "embedding, 2,000 images of 128 px": _EMBED.format(n=2000, pixels=128),
}


def seconds_of(tree: Path, workload: str) -> float:
    """What one turn says it took; of a command line, from the start of the process to its end."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    started = time.perf_counter()
    if workload.startswith("selfcluster"):
        subprocess.run([sys.executable, "-m", *workload.split()], cwd=tree, env=environment, check=True, capture_output=True)
        return time.perf_counter() - started
    done = subprocess.run([sys.executable, "-c", workload], cwd=tree, env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def compare(before: Path, after: Path, n_turns: int, only: str = "") -> dict[str, Any]:
    """For each workload the ratio of the second checkout's time to the first's, turn by turn, and the times."""
    workloads = {**WORKLOADS, "start-up: train --help": "selfcluster train --help"}
    figures = {}
    for name, workload in workloads.items():
        if only not in name:
            continue
        pairs = []
        for turn in range(n_turns):
            order = (before, after) if turn % 2 == 0 else (after, before)
            times = {tree: seconds_of(tree, workload) for tree in order}
            pairs.append((times[before], times[after]))
        figures[name] = {
            "after_over_before": spread([b / a for a, b in pairs]),
            "seconds_before": spread([a for a, _ in pairs]),
            "seconds_after": spread([b for _, b in pairs]),
        }
        ratio = figures[name]["after_over_before"]
        print(f"{name}: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--only", default="", help="workloads whose names hold this")
    a = parser.parse_args()
    trees = {name: tree.resolve() for name, tree in (("before", a.before), ("after", a.after))}
    commits = {
        name: subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, check=True, capture_output=True, text=True).stdout.strip()
        for name, tree in trees.items()
    }
    file = record(f"compare-{a.name}", {"commits": commits, "workloads": compare(trees["before"], trees["after"], a.turns, a.only)})
    print(f"-> {file}")


if __name__ == "__main__":
    main()
