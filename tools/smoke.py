"""Use an installed selfcluster from an empty folder: a small run of each kind, on generated photos.

ENVIRONMENT/bin/python -P tools/smoke.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
from PIL import Image

import selfcluster
import selfcluster.models

N_PHOTOS = 60


def main() -> None:
    """Run the commands."""
    assert Path(selfcluster.__file__).is_relative_to(sys.prefix), f"{selfcluster.__file__} is not the installed package"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_photos(Path("photos"))
        assert run("--version") == f"selfcluster {selfcluster.__version__}\n"
        assert "explore" in run("--help")
        assert "complete" in run("completion", "bash")
        print(run("doctor"))
        run("explore", "photos", "--out", "explored")
        run("train", "digits", "--max-steps", "5", "--out", "trained")
        run("export", "trained", "--format", "timm")
        encoder = timm.create_model("local-dir:trained/export/timm", pretrained=True)
        run("report", "trained")
        pages = [Path(run_folder, "report.html").read_text() for run_folder in ("explored", "trained")]
        assert all("<script" in page and "<style" in page for page in pages)
        print(f"all well: features of width {encoder.num_features}, pages of {' and '.join(f'{len(page):,}' for page in pages)} characters")


def make_photos(folder: Path) -> None:
    """Save color gradients and stripes with noise, three kinds in turn."""
    folder.mkdir()
    random, (y, x) = np.random.default_rng(0), np.mgrid[:96, :96] / 96
    for i in range(N_PHOTOS):
        pattern = (x, (8 * y).astype(int) % 2, np.hypot(x - 0.5, y - 0.5))[i % 3]
        pixels = 255 * (0.7 * pattern[..., None] * random.uniform(0.5, 1, 3) + 0.2 * random.random((96, 96, 3)))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")


def run(*words: str) -> str:
    """Run a command of selfcluster and return its output."""
    began = time.monotonic()
    done = subprocess.run([Path(sys.executable).with_name("selfcluster"), *words], stdout=subprocess.PIPE, text=True, check=True)
    print(f"selfcluster {' '.join(words)}: {time.monotonic() - began:.1f} s", flush=True)
    return done.stdout


if __name__ == "__main__":
    main()
