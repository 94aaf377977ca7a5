"""Response time of the command line, compared with Python itself, torch and lightly.

    python -m benchmarks.startup [--turns 10]

Every command is a new process; the commands take turns. Results: results/startup.json.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks.command_line import parser
from benchmarks.record import record, seconds_of, spread

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


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--turns", type=int, default=10)
    a = p.parse_args()
    calls = {name: partial(subprocess.run, command, capture_output=True) for name, command in COMMANDS.items()}
    for call in calls.values():
        call()
    turns = [{name: seconds_of(call) for name, call in calls.items()} for _ in range(a.turns)]
    seconds = {name: spread([turn[name] for turn in turns]) for name in COMMANDS}
    for name, s in seconds.items():
        print(f"{name}: {s['median']:.2f} s ({s['min']:.2f} to {s['max']:.2f})")
    print(f"-> {record('startup', {'seconds': seconds, 'other_versions': {'lightly': version('lightly')}}).name}")


if __name__ == "__main__":
    main()
