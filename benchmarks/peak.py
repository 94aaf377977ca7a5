"""Peak memory of a call, from the kernel's counters in /proc.

Call it in a fresh process. `resource.getrusage` is no alternative: its maximum includes that of the parent process, while the kernel's
peak in /proc can be reset.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.record import seconds_of


def peak_of(call: Callable[[], object]) -> dict[str, float]:
    """Return the duration of a call and its peak memory above that of the process before.

    Returns:
        `seconds`; `resident`, bytes including pages of mapped files; `anonymous`, bytes without them, sampled every 2 ms. The system
        can reclaim pages of mapped files at any time, so a machine needs only the latter.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before, peak, done = _status(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _status()["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds = seconds_of(call)
    finally:
        done.set()
        watcher.join()
    return {"seconds": seconds, "resident": _status()["VmHWM"] - before["VmRSS"], "anonymous": max(0, peak - before["RssAnon"])}


def _status() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[-1] == "kB"}
