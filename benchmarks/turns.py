"""Contestants that train in processes of their own and take turns.

Each has its own threads, workers, memory and settings; while one has its turn the others sleep. The first turn, in which everything
begins and memory is watched, is not timed with the rest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import spread


@dataclass(frozen=True)
class Entry:
    """Who takes part: what it does, on which data, under which settings."""

    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "step"
    """step (the whole loop), bare (forward and backward alone), or lightly (a loop of its parts)."""
    gives_memory_back: bool = False
    """Without `device.keep_freed_memory`."""


def take_turns(entries: Mapping[str, Entry], *, n_steps: int, n_turns: int) -> dict[str, Any]:
    """For each entry: images/s in `n_turns` turns, time until its first step was done, and the memory of its processes at most."""
    processes: dict[str, _Process] = {}
    try:
        for name, entry in entries.items():
            processes[name] = _Process(entry)
        first = {name: process.first_turn(n_steps) for name, process in processes.items()}
        turns = [{name: process.turn(n_steps) for name, process in processes.items()} for _ in range(n_turns)]
        found = {}
        for name, process in processes.items():
            images = n_steps * process.batch
            seconds_to_first_step, peak_bytes = first[name]
            found[name] = {
                "images_per_second": spread([images / turn[name] for turn in turns]),
                "seconds_to_first_step": seconds_to_first_step,
                "peak_bytes": peak_bytes,
                "settings": process.settings,
            }
        names = list(entries)
        over = {name: spread([turn[name] / turn[names[0]] for turn in turns]) for name in names[1:]}
        return {"n_steps": n_steps, "entries": found, "seconds_over_the_first": over}
    finally:
        for process in processes.values():
            process.stop()


class _Process:
    """One contestant."""

    def __init__(self, entry: Entry) -> None:
        told = json.dumps({"data": entry.data, "settings": dict(entry.settings), "kind": entry.kind, "back": entry.gives_memory_back})
        command = [sys.executable, "-m", "benchmarks.turns", told]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self._hear()
        self.batch, self.settings = ready["batch"], ready["settings"]

    def first_turn(self, n_steps: int) -> tuple[float, int]:
        """Seconds from ready to its first step, and the most memory that it and its workers hold in this turn."""
        peak, done = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.1):
                peak = max(peak, _bytes_of(self.process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            first = self.turn(1)
            self.turn(n_steps)
        finally:
            done.set()
            watcher.join()
        return first, peak

    def turn(self, n_steps: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{n_steps}\n")
        self.process.stdin.flush()
        return self._hear()["seconds"]

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contestant has left with status {self.process.wait()}")
        return json.loads(line)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _bytes_of(pid: int) -> int:
    """Memory of a process and its children; pages that several share are counted once."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = 1024 * int(line.split()[1])
        children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return total
    return total + sum(_bytes_of(int(child)) for child in children)


def _contestant(told: dict[str, Any]) -> None:
    """Runs in the contestant's process: as many steps as each line of the input says, and answers how long they took."""
    from benchmarks import step
    from selfcluster import device

    if told["back"]:
        device.keep_freed_memory = lambda: None  # type: ignore[assignment]
    t, data, log = step.prepared(told["data"], told["settings"], log_steps=1_000_000)
    begin = {"step": lambda: step.whole(t, log), "bare": lambda: step.bare(t), "lightly": lambda: step.lightly(t, data)}
    turn = begin[told["kind"]]()
    print(json.dumps({"batch": t.config.optim.batch, "settings": step.kept(t.config)}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": turn(int(line))}), flush=True)
    t.loader.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("told")
    _contestant(json.loads(parser.parse_args().told))
