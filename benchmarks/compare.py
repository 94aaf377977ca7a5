"""Two checkouts compared, using their public names only.

    git worktree add /tmp/before COMMIT
    python -m benchmarks.compare /tmp/before . --name house

Every turn of every workload is a new process; the two checkouts alternate. Results: results/compare-NAME.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.command_line import parser
from benchmarks.markdown import ratio
from benchmarks.record import record, spread

# Each workload prints its seconds on the last line. Names that have moved are tried in both places.
_TRAIN = """
import tempfile, selfcluster as sc
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
    "start-up: train --help": """
import subprocess, sys, time
started = time.perf_counter()
subprocess.run([sys.executable, "-m", "selfcluster", "train", "--help"], check=True, capture_output=True)
print(time.perf_counter() - started)
""",
}


def run_workload(workload: str, tree: Path) -> float:
    """Run a workload in a checkout and return the seconds it reports."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, "-c", workload], cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1])


def compare(before: Path, after: Path, n_turns: int, only: str = "") -> dict[str, Any]:
    """Return, for each workload, the times and the turn-by-turn ratio of the second checkout's time to the first's."""
    figures = {}
    for name, workload in WORKLOADS.items():
        if only not in name:
            continue
        pairs = []
        for turn in range(n_turns):
            order = (before, after) if turn % 2 == 0 else (after, before)
            times = {tree: run_workload(workload, tree) for tree in order}
            pairs.append((times[before], times[after]))
        figures[name] = {
            "after_over_before": spread([b / a for a, b in pairs]),
            "seconds_before": spread([a for a, _ in pairs]),
            "seconds_after": spread([b for _, b in pairs]),
        }
        print(f"{name}: after / before {ratio(figures[name]['after_over_before'])}", flush=True)
    return figures


def main() -> None:
    p = parser(__doc__)
    p.add_argument("before", type=Path)
    p.add_argument("after", type=Path)
    p.add_argument("--name", required=True)
    p.add_argument("--turns", type=int, default=7)
    p.add_argument("--only", default="", help="run the workloads whose names contain this")
    a = p.parse_args()
    trees = {"before": a.before.resolve(), "after": a.after.resolve()}

    def git(tree: Path, *arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=tree, check=True, capture_output=True, text=True).stdout.strip()

    commits = {name: git(tree, "rev-parse", "HEAD") for name, tree in trees.items()}
    dirty = {name: bool(git(tree, "status", "--porcelain")) for name, tree in trees.items()}
    for name in trees:
        print(f"{name}: {commits[name]}{', with uncommitted changes' if dirty[name] else ''}", flush=True)
    workloads = compare(trees["before"], trees["after"], a.turns, a.only)
    print(f"-> {record(f'compare-{a.name}', {'commits': commits, 'dirty': dirty, 'workloads': workloads}).name}")


if __name__ == "__main__":
    main()
