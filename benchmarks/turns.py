"""Contestants that train in separate processes and take turns.

Each has its own threads, workers, memory and settings; while one runs, the others sleep. The first turn includes start-up and is used to
measure memory; it does not count towards the times.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.command_line import parser
from benchmarks.record import spread


@dataclass(frozen=True)
class Entry:
    """A contestant."""

    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "step"
    """step (the whole loop), bare (forward and backward only), or lightly (a loop built from lightly)."""
    frees_memory: bool = False
    """Skip `device.keep_freed_memory`."""


def take_turns(entries: Mapping[str, Entry], *, n_steps: int, n_turns: int) -> dict[str, Any]:
    """Return each entry's images/s over `n_turns` turns, time to the first step, and peak memory."""
    contestants: dict[str, _Contestant] = {}
    try:
        for name, entry in entries.items():
            contestants[name] = _Contestant(entry)
        firsts = {name: contestant.first_turn(n_steps) for name, contestant in contestants.items()}
        turns = [{name: contestant.turn(n_steps) for name, contestant in contestants.items()} for _ in range(n_turns)]
        measured = {}
        for name, contestant in contestants.items():
            seconds_to_first_step, peak_bytes = firsts[name]
            measured[name] = {
                "images_per_second": spread([n_steps * contestant.batch / turn[name] for turn in turns]),
                "seconds_to_first_step": seconds_to_first_step,
                "peak_bytes": peak_bytes,
                "settings": contestant.settings,
            }
        first, *others = entries
        over = {name: spread([turn[name] / turn[first] for turn in turns]) for name in others}
        return {"n_steps": n_steps, "entries": measured, "seconds_over_the_first": over}
    finally:
        for contestant in contestants.values():
            contestant.stop()


class _Contestant:
    """The parent's side of one process."""

    def __init__(self, entry: Entry) -> None:
        command = [sys.executable, "-m", "benchmarks.turns", json.dumps(asdict(entry))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self._answer()
        self.batch, self.settings = ready["batch"], ready["settings"]

    def first_turn(self, n_steps: int) -> tuple[float, int]:
        """Return the seconds of the first step, and the peak memory of the process and its workers during this turn."""
        peak, done = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, _bytes_of(self.process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            seconds = self.turn(1)
            self.turn(n_steps)
        finally:
            done.set()
            watcher.join()
        return seconds, peak

    def turn(self, n_steps: int) -> float:
        """Return the seconds of these steps."""
        print(n_steps, file=self.process.stdin, flush=True)
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contestant exited with status {self.process.wait()}")
        return json.loads(line)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _bytes_of(pid: int) -> int:
    """Return the memory of a process and its children, counting shared pages once."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = 1024 * int(line.split()[1])
        children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return total
    return total + sum(_bytes_of(int(child)) for child in children)


def _contest(entry: Entry) -> None:
    """Run a contestant: for each line of stdin, do that number of steps and print their duration."""
    from benchmarks import step
    from selfcluster import device

    if entry.frees_memory:
        device.keep_freed_memory = lambda: None
    t, data, log = step.build(entry.data, dict(entry.settings), log_steps=1_000_000)
    contestants = {"step": lambda: step.whole(t, log), "bare": lambda: step.bare(t), "lightly": lambda: step.lightly(t, data)}
    turn = contestants[entry.kind]()
    print(json.dumps({"batch": t.config.optim.batch, "settings": step.main_settings(t.config)}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": turn(int(line))}), flush=True)
    t.loader.close()


if __name__ == "__main__":
    p = parser(__doc__)
    p.add_argument("entry", help="an Entry, as JSON")
    _contest(Entry(**json.loads(p.parse_args().entry)))
