"""A run with workers stops cleanly on a signal, and leaves nothing behind when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import selfcluster as sc
from selfcluster.errors import CheckpointError
from selfcluster.runs.checkpoint import load_checkpoint
from selfcluster.runs.lock import check_unlocked
from tests import tiny

TRAIN = [sys.executable, "-m", "selfcluster", "train"]
FLAGS = (
    "--device cpu --encoder resnet10_small_quarter_s2 --batch 8 --n-prototypes 8 --epochs 5000 --log-steps 2 --workers 2 --on-collapse warn"
)


def _started(folder: Path, method: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a run with workers in a process group of its own, and wait until it trains."""
    for i, image in enumerate(tiny.images(64)):
        Image.fromarray(image).save(folder / f"{i}.png")
    out = folder / "run"
    process = subprocess.Popen(
        [*TRAIN, str(folder), "--out", str(out), "--method", method, *FLAGS.split()],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    metrics, deadline = out / "metrics.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        time.sleep(0.1)
    return process, out


def _members(group: int) -> list[str]:
    """Return the processes of a group that have not ended."""
    found = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]
    return [line for line in found if line.split()[1] == str(group) and not line.split()[2].startswith("Z")]


@pytest.mark.parametrize(("method", "number"), [("swav", signal.SIGINT), ("deepcluster", signal.SIGTERM)], ids=["swav", "deepcluster"])
def test_a_signal_to_all_processes_leaves_a_checkpoint_and_its_status(tmp_path: Path, method: str, number: signal.Signals) -> None:
    """DeepCluster is most of the time between epochs, where other workers read the images."""
    process, out = _started(tmp_path, method)
    with pytest.raises(CheckpointError, match=f"is in use by process {process.pid} on "):
        check_unlocked(out)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1].startswith("selfcluster: stopped at step")
    assert said.splitlines()[-1].endswith(f"resume with: selfcluster train --resume --out {out}")
    assert "Traceback" not in said
    assert _members(process.pid) == []
    assert load_checkpoint(out)[1].step > 0
    with pytest.raises(sc.ConfigError, match="cannot resume with --epochs: the run has not finished"):
        sc.train(out=out, resume=True, epochs=3)


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with their parent by a call of Linux")
def test_a_killed_run_leaves_no_processes_and_no_lock(tmp_path: Path) -> None:
    process, out = _started(tmp_path, "swav")
    assert len(_members(process.pid)) == 3
    process.kill()
    process.wait()
    deadline = time.monotonic() + 5
    while _members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert _members(process.pid) == []
    check_unlocked(out)
