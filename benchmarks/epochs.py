"""Whole epochs from a folder of JPEG files (decoding, crops, training), compared with a loop built from lightly.

    pip install 'selfcluster[bench]'
    python -m benchmarks.epochs [FOLDER] [--turns 5]

Without FOLDER, 512 crops of 256 pixels from the two sample photos of scikit-learn. Network and crops are the recipe's. selfcluster runs with
its defaults (including the cache of decoded images), and without the cache for every division of the cores; the lightly loop has one worker per
core. A turn is one epoch. Every contestant is a process; see `benchmarks.turns`. Results: results/epochs.json.
"""

from __future__ import annotations

import os
import tempfile
from importlib.metadata import version
from pathlib import Path

from benchmarks.command_line import parser
from benchmarks.markdown import mib, ratio
from benchmarks.photos import photos, save_jpegs
from benchmarks.record import record
from benchmarks.turns import Entry, take_turns
from selfcluster.data.sources import open_data
from selfcluster.settings.config import DataSettings


def main() -> None:
    p = parser(__doc__)
    p.add_argument("folder", nargs="?", default="")
    p.add_argument("--turns", type=int, default=5)
    a = p.parse_args()
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.folder or f"{temporary}/photos"
        if not a.folder:
            save_jpegs(photos(512, 256), Path(folder))
        entries = {
            "default": Entry(folder),
            "no cache": Entry(folder, {"cache_gib": 0}),
            "no cache, one thread": Entry(folder, {"cache_gib": 0, "threads": 1}),
        }
        for n in range(1, cores):
            settings = {"cache_gib": 0, "workers": n, "threads": cores - n}
            entries[f"no cache, workers {n}, threads {cores - n}"] = Entry(folder, settings)
        entries[f"no cache, workers {cores}"] = Entry(folder, {"cache_gib": 0, "workers": cores})
        entries["lightly"] = Entry(folder, kind="lightly")
        n_images = len(open_data(folder, DataSettings()).images)
        result = take_turns(entries, n_steps=n_images // 64, n_turns=a.turns)
    for name, entry in result["entries"].items():
        over = result["seconds_over_the_first"].get(name)
        time = f"{ratio(over)} of the time, " if over else ""
        print(f"{name}: {entry['images_per_second']['median']:,.0f} images/s, {time}{mib(entry['peak_bytes'])}")
    data = {"images": n_images, "folder": Path(a.folder).name or "generated photos of 256 px"}
    print(f"-> {record('epochs', {**data, 'other_versions': {'lightly': version('lightly')}, **result}).name}")


if __name__ == "__main__":
    main()
