"""Whether --max-minutes holds while the load of the machine changes.

    python -m benchmarks.max_minutes [--minutes 2] [--data digits]

Three runs of `selfcluster train`: on a quiet machine, with other work on every core that begins after a quarter of the time and ends after three,
and with such work that ends after half of it. Seconds are those of the command, from its start to its end. Results: results/max_minutes.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.command_line import parser
from benchmarks.record import record

_BUSY = "while True: pass"
CASES = {"quiet": None, "busy in the middle": (0.25, 0.75), "busy at first": (0.0, 0.5)}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--minutes", type=float, default=2.0)
    p.add_argument("--data", default="digits")
    a = p.parse_args()
    rows = []
    for case, when in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            other = threading.Thread(target=be_busy, args=[tuple(60 * a.minutes * share for share in when)]) if when else None
            if other:
                other.start()
            began = time.monotonic()
            command = [
                sys.executable,
                "-m",
                "selfcluster",
                "train",
                a.data,
                "--max-minutes",
                str(a.minutes),
                "--epochs",
                "100000",
                "--out",
                str(run),
            ]
            subprocess.run(command, check=True, capture_output=True)
            seconds = time.monotonic() - began
            if other:
                other.join()
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines if "train/loss" in line]
        rows.append({"case": case, "seconds": seconds, "of the limit": seconds / (60 * a.minutes), "steps": steps[-1]})
        print(rows[-1], flush=True)
    print(record("max_minutes", {"minutes": a.minutes, "data": a.data, "runs": rows}))


def be_busy(when: tuple[float, float]) -> None:
    """Keep every core busy between two times, in seconds from now."""
    begin, end = when
    time.sleep(begin)
    others = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(os.cpu_count() or 1)]
    time.sleep(end - begin)
    for process in others:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
