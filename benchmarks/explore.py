"""From the command to the page, without training, and how well the clusters match classes.

    python -m benchmarks.explore PHOTOS [--turns 3]

PHOTOS is a folder with a folder per class. Every turn is a new process of `selfcluster explore`. Results: results/explore.json.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.command_line import parser
from benchmarks.record import record, seconds_of, spread
from selfcluster import ami, matched_accuracy, nmi


def main() -> None:
    p = parser(__doc__)
    p.add_argument("photos", type=Path)
    p.add_argument("--turns", type=int, default=3)
    a = p.parse_args()
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "selfcluster", "explore", str(a.photos), "--out", str(run), "--overwrite"]
        for _ in range(a.turns):
            seconds.append(seconds_of(partial(subprocess.run, command, capture_output=True, check=True)))
        table = pq.read_table(run / "clusters.parquet")
    labels = np.unique(table["label"].to_pylist(), return_inverse=True)[1]
    clusters = table["cluster"].to_numpy()
    found = {
        "images": len(table),
        "classes": len(np.unique(labels)),
        "clusters": len(np.unique(clusters)),
        "matched accuracy": matched_accuracy(labels, clusters),
        "NMI": nmi(labels, clusters),
        "AMI": ami(labels, clusters),
    }
    print(found, f"{min(seconds):.0f} to {max(seconds):.0f} s from the command to the page")
    print(record("explore", {**found, "photos": a.photos.name, "seconds": spread(seconds)}))


if __name__ == "__main__":
    main()
