"""Whole epochs from a folder of JPEG files: decoding, crops and training, beside a loop of lightly's parts.

    pip install 'selfcluster[bench]'
    python -m benchmarks.epochs [FOLDER] [--turns 5]

Without FOLDER, 512 photos of 256 pixels are cut from the two that come with scikit-learn. The recipe's network and crops. Ours is entered
with its own division of the cores and a cache of decoded images, and without the cache with each division there is; lightly's has a worker
a core. A turn is one epoch. Every contestant is a process of its own; see `benchmarks.turns`. Results: results/epochs.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.photos import as_jpegs, photos
from benchmarks.record import record
from benchmarks.turns import Entry, take_turns
from selfcluster.data.sources import open_data
from selfcluster.settings.config import DataSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="")
    parser.add_argument("--turns", type=int, default=5)
    a = parser.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.folder or str(as_jpegs(photos(512, 256), Path(temporary) / "photos"))
        entries = {
            "as it comes": Entry(folder),
            "no cache": Entry(folder, {"cache_gib": 0}),
            "no cache, one thread": Entry(folder, {"cache_gib": 0, "threads": 1}),
            **{
                f"no cache, workers {n}, threads {max(1, cores - n)}": Entry(
                    folder, {"cache_gib": 0, "workers": n, "threads": max(1, cores - n)}
                )
                for n in range(1, cores)
            },
            f"no cache, workers {cores}": Entry(folder, {"cache_gib": 0, "workers": cores}),
            "lightly": Entry(folder, kind="lightly"),
        }
        n = len(open_data(folder, DataSettings()).images)
        found = take_turns(entries, n_steps=n // 64, n_turns=a.turns)
    for name, entry in found["entries"].items():
        over = found["seconds_over_the_first"].get(name, {"median": 1.0})["median"]
        print(
            f"{name}: {entry['images_per_second']['median']:,.0f} images/s, {over:.2f} of the time, {entry['peak_bytes'] / 2**20:,.0f} MiB"
        )
    what = {"images": n, "folder": Path(a.folder).name or "generated photos of 256 px", "other_versions": {"lightly": version("lightly")}}
    print(record("epochs", {**what, **found}).name)


if __name__ == "__main__":
    main()
