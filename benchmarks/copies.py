"""Copies: planted ones that are found, and false ones among photos and among textures.

    python -m benchmarks.copies PHOTOS [--photos 1000] [--textures 1000] [--seeds 3]

Half of the photos get a copy: the same file, resized to 60 %, saved again at quality 50, mirrored, or cropped by 5 % at a random place.
Textures are the most even windows of 48 pixels of other photos, one of each, that are not blank. Photos that are copies of others as they
come are left out of both. Results: results/copies.json.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from benchmarks.command_line import parser
from benchmarks.record import record
from selfcluster import explore

KINDS = ("exact", "resized", "saved again", "mirrored", "cropped")
_WINDOW = 48


def copies_in(folder: Path, run: Path) -> dict[str, tuple[str, str]]:
    """Return the first image and the kind of each copy in a folder, by name."""
    explore(str(folder), out=run, overwrite=True, labels="none", k=2)
    rows = pq.read_table(run / "clusters.parquet").to_pylist()
    return {row["path"]: (rows[row["duplicate_of"]]["path"], row["copy"]) for row in rows if row["copy"]}


def plant(photos: list[Path], folder: Path, draw: np.random.Generator) -> dict[str, tuple[str, str]]:
    """Write the photos and a copy of every second one; return the copies as `copies_in` does."""
    planted = {}
    for number, photo in enumerate(photos):
        image, file = Image.open(photo).convert("RGB"), folder / f"a{number:05}.jpg"
        image.save(file, quality=92)
        if number % 2:
            continue
        kind, copy = KINDS[number // 2 % len(KINDS)], folder / f"b{number:05}.jpg"
        image = Image.open(file).convert("RGB")
        (width, height), (left, top) = image.size, 0.05 * draw.random(2)
        if kind == "exact":
            shutil.copy(file, copy)
        elif kind == "resized":
            image.resize((round(0.6 * width), round(0.6 * height)), Image.Resampling.LANCZOS).save(copy, quality=92)
        elif kind == "saved again":
            image.save(copy, quality=50)
        elif kind == "mirrored":
            ImageOps.mirror(image).save(copy, quality=92)
        else:
            box = (left * width, top * height, (left + 0.95) * width, (top + 0.95) * height)
            image.crop(tuple(map(round, box))).save(copy, quality=92)
        planted[copy.name] = (file.name, kind)
    return planted


def write_textures(photos: list[Path], folder: Path, n: int) -> None:
    """Write the most even windows of the photos."""
    found = []
    for photo in photos:
        gray = np.asarray(Image.open(photo).convert("L"), dtype=np.float32)
        corners = ((y, x) for y in range(0, gray.shape[0] - _WINDOW + 1, 16) for x in range(0, gray.shape[1] - _WINDOW + 1, 16))
        windows = [(_evenness(gray[y : y + _WINDOW, x : x + _WINDOW]), y, x) for y, x in corners]
        if windows and np.isfinite(min(windows)[0]):
            found.append((*min(windows), photo))
    for number, (_, y, x, photo) in enumerate(sorted(found)[:n]):
        Image.open(photo).convert("RGB").crop((x, y, x + _WINDOW, y + _WINDOW)).save(folder / f"{number:05}.png")


def _evenness(window: np.ndarray) -> float:
    """Return how much the 16 parts of a window differ in brightness and contrast; 0 if not at all, infinite if one is blank."""
    parts = window.reshape(4, _WINDOW // 4, 4, _WINDOW // 4).transpose(0, 2, 1, 3).reshape(16, -1)
    deviations = parts.std(axis=1)
    return float((parts.mean(axis=1).std() + deviations.std()) / deviations.mean()) if deviations.min() > 1.5 else np.inf


def main() -> None:
    p = parser(__doc__)
    p.add_argument("photos", type=Path)
    p.add_argument("--photos", dest="n_photos", type=int, default=1000)
    p.add_argument("--textures", type=int, default=1000)
    p.add_argument("--seeds", type=int, default=3)
    a = p.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        known = copies_in(a.photos, scratch / "run")
        twice = set(known) | {first for first, _ in known.values()}
        files = [file for file in sorted(a.photos.rglob("*")) if file.is_file() and file.relative_to(a.photos).as_posix() not in twice]
        for seed in range(a.seeds):
            draw = np.random.default_rng(seed)
            order = draw.permutation(len(files))
            photos, others = ([files[i] for i in part] for part in (order[: a.n_photos], order[a.n_photos :]))
            for folder in ("planted", "textures"):
                shutil.rmtree(scratch / folder, ignore_errors=True)
                (scratch / folder).mkdir()
            planted = plant(photos, scratch / "planted", draw)
            write_textures(others, scratch / "textures", a.textures)
            copies, of_textures = (copies_in(scratch / folder, scratch / "run") for folder in ("planted", "textures"))
            of_kind = Counter(kind for _, kind in planted.values())
            hits = Counter(kind for copy, (first, kind) in planted.items() if copies.get(copy, ("", ""))[0] == first)
            named = Counter(kind for copy, (first, kind) in planted.items() if copies.get(copy) == (first, kind))
            found.append(
                {
                    "seed": seed,
                    "photos": len(photos),
                    "planted": dict(of_kind),
                    "found": {kind: hits[kind] for kind in KINDS},
                    "named": {kind: named[kind] for kind in KINDS},
                    "false among photos": sum(planted.get(copy, ("", ""))[0] != first for copy, (first, _) in copies.items()),
                    "textures": len(list((scratch / "textures").iterdir())),
                    "false among textures": len(of_textures),
                }
            )
            print(found[-1], flush=True)
    print(record("copies", {"copies as they come": len(known), "found": found}).name)


if __name__ == "__main__":
    main()
