"""Two processes do not train one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import selfcluster as sc
from selfcluster.errors import CheckpointError
from selfcluster.runs.lock import LOCK, check_unlocked, locked_run
from tests import tiny

_HOLD = """
import sys
from pathlib import Path
from selfcluster.runs.lock import locked_run

with locked_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[int]:
    """Hold the lock in another process, and yield its number."""
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.stdin.close()


def test_a_run_in_use_is_refused_with_the_process_that_uses_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {**tiny.SETTINGS, "max_steps": 2, "epochs": 1}
    sc.train(tiny.images(), out=out, **settings)
    metrics = (out / "metrics.jsonl").read_bytes()
    with held_elsewhere(out) as process:
        for how in ({"resume": True}, {"overwrite": True, **settings}):
            with pytest.raises(CheckpointError, match=f"is in use by process {process} on .*; wait until it ends"):
                sc.train(tiny.images(), out=out, **how)
        (out / LOCK).write_text("?")
        with pytest.raises(CheckpointError, match="is in use by another process"):
            check_unlocked(out)
        (out / LOCK).write_text("{")
    assert (out / "metrics.jsonl").read_bytes() == metrics
    assert not (out / LOCK).exists()
    sc.train(tiny.images(), out=out, resume=True)


def test_a_lock_that_a_killed_process_left_is_free(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "process": 1}))
    check_unlocked(tmp_path)
    assert (tmp_path / LOCK).exists()
    with locked_run(tmp_path):
        pass
    assert not (tmp_path / LOCK).exists()


_WITH_A_CHILD = """
import os, signal, sys, time
from pathlib import Path
from selfcluster.runs.lock import locked_run

with locked_run(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork processes")
def test_the_lock_of_a_killed_process_is_free_while_its_workers_still_run(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", _WITH_A_CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(said.stdout)
    try:
        assert said.returncode == -signal.SIGKILL
        os.kill(child, 0)
        check_unlocked(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_run_that_was_killed_while_its_folder_was_prepared_is_replaced(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{}")
    (tmp_path / "environment.json").write_text("{}")
    settings = {**tiny.SETTINGS, "max_steps": 2, "epochs": 1}
    with pytest.raises(CheckpointError, match="contains a run that was stopped before it began; use --overwrite to replace it"):
        sc.train(tiny.images(), out=tmp_path, **settings)
    assert sc.train(tiny.images(), out=tmp_path, overwrite=True, **settings).opened.step == 2
