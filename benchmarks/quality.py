"""The methods on one data set: train with the recipe's settings and evaluate.

    python -m benchmarks.quality NAME DATA [--test DATA2] [--max-minutes 5] [--seeds 1] [--methods swav ...] [--no-baselines] [--set ...]

Each run is a new process, so that its peak memory can be measured. Results: results/quality-NAME.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, Namespace
from pathlib import Path
from typing import Any

from benchmarks.command_line import parser, settings_from
from benchmarks.record import record
from selfcluster.api import train
from selfcluster.settings.config import METHOD_SETTINGS, flatten


def measure(a: Namespace, method: str, seed: int) -> dict[str, Any]:
    """Train and evaluate in this process; the first run also measures the baselines, which are the same for all."""
    with_baselines = not a.no_baselines and method == a.methods[0] and seed == 0
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = train(a.data, method=method, out=Path(folder) / "run", max_minutes=a.max_minutes, seed=seed, **settings_from(a.set))
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        evaluation = run.evaluate(a.data if a.test else None, test=a.test, baselines=with_baselines)
        rows = run.metrics
    settings = flatten(run.config)
    last = [row for row in rows if "train/loss" in row][-1]
    seen = last["step"] * settings["batch"]
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
        "last_row": last,
        "settings": settings,
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("name")
    p.add_argument("data")
    p.add_argument("--test")
    p.add_argument("--max-minutes", type=float, default=5.0)
    p.add_argument("--seeds", type=int, default=1)
    p.add_argument("--methods", nargs="*", default=list(METHOD_SETTINGS), choices=list(METHOD_SETTINGS))
    p.add_argument("--no-baselines", action="store_true", help="skip raw pixels, patches, the pretrained and the untrained encoder")
    p.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    p.add_argument("--measure", nargs=2, metavar=("METHOD", "SEED"), help=SUPPRESS)
    a = p.parse_args()
    if a.measure:
        print(json.dumps(measure(a, a.measure[0], int(a.measure[1]))))
        return
    runs = []
    for method in a.methods:
        for seed in range(a.seeds):
            command = [sys.executable, "-m", "benchmarks.quality", *sys.argv[1:], "--measure", method, str(seed)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            run = json.loads(output.splitlines()[-1])
            trained = {name: round(value, 3) for name, value in run["figures"]["trained encoder"].items()}
            print(f"{method}, seed {seed}: {run['train_seconds']:.0f} s, {trained}", flush=True)
            runs.append(run)
    print(f"-> {record(f'quality-{a.name}', {'name': a.name, 'max_minutes': a.max_minutes, 'runs': runs}).name}")


if __name__ == "__main__":
    main()
