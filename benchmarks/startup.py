"""How long the command line takes to answer, beside Python itself, torch and lightly.

    python -m benchmarks.startup [--turns 10]

Each is a process of its own, in turns. Results: results/startup.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks.record import record, spread

_SELFCLUSTER = str(Path(sys.executable).with_name("selfcluster"))
COMMANDS = {
    "selfcluster --help": [_SELFCLUSTER, "--help"],
    "selfcluster train --help": [_SELFCLUSTER, "train", "--help"],
    "selfcluster train --epoch 3 (a wrong flag)": [_SELFCLUSTER, "train", "photos", "--epoch", "3"],
    "import selfcluster": [sys.executable, "-c", "import selfcluster"],
    "python alone": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import lightly.models": [sys.executable, "-c", "import lightly.models, lightly.loss, lightly.transforms"],
}


def seconds_of(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    a = parser.parse_args()
    for command in COMMANDS.values():
        seconds_of(command)
    turns = [{name: seconds_of(command) for name, command in COMMANDS.items()} for _ in range(a.turns)]
    seconds = {name: spread([turn[name] for turn in turns]) for name in COMMANDS}
    for name, s in seconds.items():
        print(f"{name}: {s['median']:.2f} s ({s['min']:.2f} to {s['max']:.2f})")
    print(record("startup", {"seconds": seconds, "other_versions": {"lightly": version("lightly")}}).name)


if __name__ == "__main__":
    main()
