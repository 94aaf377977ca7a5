"""The demo over several seeds: clusters of the digits compared with raw pixels.

    python -m benchmarks.demo [--seeds 3]

Results: results/demo.json.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.command_line import parser
from benchmarks.record import record, spread
from selfcluster.api import train


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--seeds", type=int, default=3)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(p.parse_args().seeds):
            started = time.perf_counter()
            run = train("digits", out=Path(folder) / str(seed), seed=seed)
            seconds = time.perf_counter() - started
            runs.append({"seed": seed, "seconds": seconds, "figures": run.evaluate().figures})
            print(f"seed {seed}: {seconds:.0f} s, {runs[-1]['figures']['trained encoder']}", flush=True)
    accuracy = [run["figures"]["trained encoder"]["cluster/accuracy"] for run in runs]
    summary = {
        "cluster_accuracy_mean": statistics.mean(accuracy),
        "cluster_accuracy": spread(accuracy),
        "seconds": spread([run["seconds"] for run in runs]),
    }
    print(f"{summary} -> {record('demo', {**summary, 'runs': runs}).name}")


if __name__ == "__main__":
    main()
