"""The methods on one data set: train with the recipe's settings, evaluate, and record both.

    python -m benchmarks.quality NAME DATA [--test DATA2] [--max-minutes 5] [--seeds 1] [--methods swav ...] [--set encoder=... ...]

Each run has a process of its own, so that its peak memory is its own. Results: results/quality-NAME.json.
"""

from __future__ import annotations

import argparse
import ast
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record
from selfcluster.api import train
from selfcluster.settings.config import METHOD_SETTINGS, flatten


def one(a: argparse.Namespace, method: str, seed: int) -> dict[str, Any]:
    """Train and evaluate in this process."""
    settings: dict[str, Any] = {name: value_of(text) for name, text in (pair.split("=", 1) for pair in a.set)}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = train(a.data, method=method, out=Path(folder) / "run", max_minutes=a.max_minutes, seed=seed, **settings)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        evaluation = run.evaluate(a.data if a.test else None, test=a.test)
        rows = run.metrics
    config = flatten(run.config)
    steps = [row for row in rows if "train/loss" in row]
    seen = steps[-1]["step"] * config["batch"]
    return {
        "method": method,
        "seed": seed,
        "train_seconds": seconds,
        "assign_seconds": sum(row.get("train/assign_seconds", 0.0) for row in rows),
        "images_seen": seen,
        "images_per_second": seen / seconds,
        "peak_memory_gib": peak,
        "figures": evaluation.figures,
        "notes": evaluation.notes,
        "last_row": steps[-1],
        "settings": config,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data")
    parser.add_argument("--test")
    parser.add_argument("--max-minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="*", default=list(METHOD_SETTINGS), choices=list(METHOD_SETTINGS))
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "SEED"), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        print(json.dumps(one(a, a.one[0], int(a.one[1]))))
        return
    runs = []
    for method in a.methods:
        for seed in range(a.seeds):
            command = [sys.executable, "-m", "benchmarks.quality", *sys.argv[1:], "--one", method, str(seed)]
            said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            runs.append(json.loads(said.splitlines()[-1]))
            trained = runs[-1]["figures"]["trained encoder"]
            print(
                method, seed, f"{runs[-1]['train_seconds']:.0f} s", {name: round(value, 3) for name, value in trained.items()}, flush=True
            )
    print(record(f"quality-{a.name}", {"name": a.name, "max_minutes": a.max_minutes, "runs": runs}).name)


def value_of(text: str) -> Any:
    """A setting as it is written on the command line."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()
