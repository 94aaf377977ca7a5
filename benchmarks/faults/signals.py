"""Signals to all processes of a run with workers, at random moments: whether it leaves a checkpoint, nothing else, and resumes.

    python -m benchmarks.faults.signals [--trials 60] [--seconds 12]

A trial starts a run of one of the methods in a process group of its own, and sends SIGTERM, SIGINT, SIGUSR1 or SIGKILL to the group, or to the
main process alone, after a random time: before the loop, in steps, in extraction, in k-means, or while the memory bank is filled. Then the run
must end, with the status of the signal and without a stack trace, leave no process, and be resumed, or begun again with --overwrite if it had no
checkpoint. Results: results/faults-signals.json.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.command_line import parser
from benchmarks.record import record

METHODS = ("swav", "deepcluster", "deepcluster-v2", "sela-v2")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGKILL)
_FLAGS = (
    "--device cpu --encoder resnet10_small_quarter_s2 --batch 16 --n-prototypes 8 --epochs 400 --log-steps 2 --workers 2 --on-collapse warn"
)
_COMMAND = [sys.executable, "-m", "selfcluster", "train"]
_END_SECONDS = 60
"""In which a run must end."""


def members(group: int) -> int:
    """Return the number of processes of a group that have not ended."""
    lines = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    return sum(line.split()[0] == str(group) and not line.split()[1].startswith("Z") for line in lines)


def problems_of(images: Path, out: Path, draw: random.Random, seconds: float) -> tuple[str, list[str]]:
    """Run one trial; return what was done, and what went wrong."""
    method, number, to_group = draw.choice(METHODS), draw.choice(SIGNALS), draw.random() < 0.7
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = [*_COMMAND, str(images), "--out", str(out), "--method", method, *_FLAGS.split()]
    process = subprocess.Popen(start, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    time.sleep(draw.uniform(0.5, seconds))
    (os.killpg if to_group else os.kill)(process.pid, number)
    try:
        _, said = process.communicate(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return f"{method}, {number.name}", ["did not end"]
    problems = [] if process.returncode in (128 + number, -number) else [f"status {process.returncode}"]
    if "Traceback" in said:
        problems.append("stack trace")
    deadline = time.monotonic() + 5
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    if members(process.pid):
        problems.append("processes left")
        os.killpg(process.pid, signal.SIGKILL)
    has_checkpoint = (out / "checkpoints" / "last.json").is_file()
    again = [*_COMMAND, "--out", str(out), "--resume"] if has_checkpoint else [*start, "--overwrite"]
    resumed = subprocess.Popen(again, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    try:
        _, said = resumed.communicate(timeout=8)
    except subprocess.TimeoutExpired:  # it trains
        os.killpg(resumed.pid, signal.SIGKILL)
        resumed.wait()
        said = ""
    if resumed.returncode not in (0, -signal.SIGKILL):
        problems.append(f"cannot go on: {said.strip().splitlines()[-1:]}")
    return f"{number.name} to {'the group' if to_group else 'the main process'}, {'a' if has_checkpoint else 'no'} checkpoint", problems


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--trials", type=int, default=60)
    p.add_argument("--seconds", type=float, default=12)
    a = p.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would the runs
    draw, done, wrong = random.Random(0), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)):
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(images / f"{i}.png")
        for trial in range(a.trials):
            what, problems = problems_of(images, Path(folder) / f"run-{trial}", draw, a.seconds)
            done[what] += 1
            wrong += [f"{what}: {problem}" for problem in problems]
            print(trial, what, problems or "", flush=True)
    print(f"-> {record('faults-signals', {'trials': a.trials, 'done': dict(done), 'wrong': wrong}).name}")


if __name__ == "__main__":
    main()
