"""Memory over a long run, and with more images than features fit into it.

    python -m benchmarks.faults.memory [--steps 2000] [--images 1000000]

steps     resident memory of a training, every hundred steps
features  a million images of 8 x 8 pixels, embedded with at most a quarter GiB of features in memory: peak memory
Results: results/faults-memory.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import parser
from benchmarks.record import record

_PROGRAM = [sys.executable, "-m", "selfcluster"]
_NETWORK = ["--device", "cpu", "--encoder", "resnet10_small_quarter_s2", "--on-collapse", "warn"]


def memory_of(process: int, what: str) -> float:
    """Return VmRSS or VmHWM of a process in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(what)), 0.0)


def over_steps(folder: Path, steps: int) -> dict[str, Any]:
    """Return the resident memory of a training at multiples of a hundred steps."""
    out = folder / "run"
    words = ["train", "digits", "--out", str(out), *_NETWORK, "--max-steps", str(steps), "--epochs", "10000", "--log-steps", "100"]
    process = subprocess.Popen([*_PROGRAM, *words], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    found: dict[int, float] = {}
    while process.poll() is None:
        rows = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").is_file() else []
        if rows:
            found.setdefault(json.loads(rows[-1])["step"], memory_of(process.pid, "VmRSS"))
        time.sleep(0.05)
    settled = [mib for step, mib in found.items() if step >= 500 and mib]
    return {"mib": found, "min_after_500": min(settled), "max_after_500": max(settled), "status": process.returncode}


def of_many_images(folder: Path, n: int) -> dict[str, Any]:
    """Return the peak memory of embedding many images."""
    images, run = folder / "images.npy", folder / "small"
    np.save(images, np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8))
    few = folder / "few.npy"
    np.save(few, np.load(images, mmap_mode="r")[:500])
    words = [
        "train",
        str(few),
        "--out",
        str(run),
        *_NETWORK,
        "--max-steps",
        "4",
        "--features-gib",
        "0.25",
        "--batch",
        "64",
        "--n-prototypes",
        "8",
    ]
    subprocess.run([*_PROGRAM, *words], check=True, capture_output=True)
    began = time.monotonic()
    process = subprocess.Popen(
        [*_PROGRAM, "embed", str(run), str(images), "--out", str(folder / "features.npy")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid, "VmHWM"))
        time.sleep(0.2)
    features = np.load(folder / "features.npy", mmap_mode="r")
    return {
        "images": n,
        "shape": list(features.shape),
        "feature_gib": features.nbytes / 2**30,
        "peak_mib": peak,
        "seconds": time.monotonic() - began,
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--images", type=int, default=1_000_000)
    a = p.parse_args()
    os.environ["OMP_NUM_THREADS"] = "2"
    with tempfile.TemporaryDirectory() as name:
        steps = over_steps(Path(name), a.steps)
        print({key: value for key, value in steps.items() if key != "mib"}, flush=True)
        images = of_many_images(Path(name), a.images)
        print(images, flush=True)
    print(f"-> {record('faults-memory', {'steps': steps, 'images': images}).name}")


if __name__ == "__main__":
    main()
