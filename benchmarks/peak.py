"""The memory that a call takes above what its process held before, as Linux counts it.

For a fresh process. `resource.getrusage` will not do: the largest size that it tells begins with that of the process which started
this one. The kernel's own mark in /proc can be set back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_of(call: Callable[[], object]) -> dict[str, int]:
    """Bytes above the start, at most: `resident`, with the pages of mapped files; `anonymous`, without them, looked at every 2 ms.

    Pages of a mapped file can be given back at any time, so what a machine must have is the second.
    """
    CLEAR.write_text("5")
    before, most, done = _status(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, _status()["RssAnon"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return {"resident": _status()["VmHWM"] - before["VmRSS"], "anonymous": max(0, most - before["RssAnon"])}


def _status() -> dict[str, int]:
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[-1] == "kB"}
