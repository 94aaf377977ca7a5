"""Several processes on this machine: one is killed, hangs, comes back; a run goes on with another number; losses are compared.

    python -m benchmarks.faults.ranks [--trials 10] [--only death hang restart numbers losses]

death     a rank is killed at a random moment: the others must end by themselves, with one line that names it
hang      a rank is stopped (SIGSTOP): the same, within --rank-timeout
restart   `torchrun --max-restarts` with `--resume auto`, a rank killed twice: the run must end with the losses of an undisturbed one
numbers   a run begins with 2 ranks, goes on with 1 and ends with 4: the same losses
losses    of 1, 2 and 4 ranks, and of one rank whose images are disturbed by one unit in the last place: steps until they differ by 1e-4
Results: results/faults-ranks.json.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.command_line import parser
from benchmarks.record import record, spread

_PROGRAM = [sys.executable, "-m", "selfcluster", "train"]
_SETTINGS = (
    "digits --device cpu --precision float32 --encoder resnet10_small_quarter_s2 --batch 64 --log-steps 1 --on-collapse warn --threads 1"
)
_DISTURBED = """
import sys, torch
from selfcluster.data import crops
exact = crops._normalize
def disturbed(x, out):
    return out.copy_(torch.nextafter(exact(x, out), torch.tensor(torch.inf)))
crops._normalize = disturbed
from selfcluster.cli import main
main(sys.argv[1:])
"""


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def started(n: int, *words: str) -> list[subprocess.Popen[str]]:
    """Start n ranks without a launcher, as a batch system does, so that nobody ends the others when one dies."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port()), "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n)}
    return [
        subprocess.Popen(
            [*_PROGRAM, *_SETTINGS.split(), *words],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**environment(), **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(n)
    ]


def ended(ranks: list[subprocess.Popen[str]], seconds: float) -> list[str]:
    """Return what each rank said; kill those that do not end."""
    said, deadline = [], time.monotonic() + seconds
    for process in ranks:
        try:
            said.append(process.communicate(timeout=max(0.1, deadline - time.monotonic()))[1])
        except subprocess.TimeoutExpired:
            process.kill()
            said.append(process.communicate()[1] + "\nDID NOT END")
    return said


def steps_of(run: Path) -> dict[int, float]:
    """Return the loss of each step."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if (run / "metrics.jsonl").is_file() else ()
    return {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}


def wait_for_step(run: Path, step: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while max(steps_of(run), default=0) < step:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{run} did not reach step {step}")
        time.sleep(0.1)


def lost(folder: Path, draw: random.Random, trial: int, number: signal.Signals) -> dict[str, Any]:
    """Kill or stop one rank of three, and return how long the others took to end, and what they said."""
    run, method, victim = (
        folder / f"{number.name}-{trial}",
        draw.choice(["swav", "deepcluster-v2", "sela-v2", "deepcluster"]),
        draw.randrange(3),
    )
    ranks = started(3, "--out", str(run), "--method", method, "--epochs", "1000", "--batch", "63", "--rank-timeout", "10")
    wait_for_step(run, 2)
    time.sleep(draw.uniform(0, 3))
    ranks[victim].send_signal(number)
    began = time.monotonic()
    said = ended([process for rank, process in enumerate(ranks) if rank != victim], 60)
    seconds = time.monotonic() - began
    ranks[victim].kill()
    ranks[victim].communicate()
    lines = [line for text in said for line in text.splitlines() if "error" in line.lower() or "Traceback" in line or "DID NOT" in line]
    is_right = len(lines) == 1 and f"rank {victim} (process {ranks[victim].pid} on" in lines[0]
    statuses = [process.returncode for rank, process in enumerate(ranks) if rank != victim]
    return {
        "method": method,
        "victim": victim,
        "seconds": seconds,
        "statuses": statuses,
        "is_right": is_right,
        "said": lines if not is_right else [],
    }


def torchrun(n: int, *words: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "--master-port", str(port())]
    return [*launcher, *words]


def trained(run: Path, n: int, *words: str) -> dict[int, float]:
    """Train to the end with n ranks, and return the loss of each step."""
    command = [*torchrun(n), "-m", "selfcluster", "train"] if n > 1 else _PROGRAM
    done = subprocess.run([*command, *words, "--out", str(run)], capture_output=True, text=True, env=environment())
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return steps_of(run)


def restarted(folder: Path, expected: dict[int, float], trial: int, words: list[str]) -> dict[str, Any]:
    """Kill a rank of two twice under torchrun, which starts both again."""
    run = folder / f"restart-{trial}"
    command = [*torchrun(2, "--max-restarts", "3"), "-m", "selfcluster", "train", *words, "--out", str(run), "--resume", "auto"]
    began = time.monotonic()
    process = subprocess.Popen([*command, "--checkpoint-minutes", "0"], stderr=subprocess.PIPE, text=True, env=environment())
    for step in (20, 40):
        wait_for_step(run, step)
        workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(workers[trial % 2]), signal.SIGKILL)
        time.sleep(3)
    try:
        said = process.communicate(timeout=240)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        return {"is_right": False, "said": "did not end", "seconds": time.monotonic() - began}
    losses = steps_of(run)
    is_right = process.returncode == 0 and losses == expected
    return {"is_right": is_right, "seconds": time.monotonic() - began, "said": [] if is_right else said[-2000:], "steps": len(losses)}


def until_different(a: dict[int, float], b: dict[int, float], limit: float) -> int | None:
    """Return the first step whose losses differ by more than a share; None if none does."""
    return next((step for step in sorted(a) if abs(a[step] - b[step]) > limit * abs(a[step])), None)


def compared(folder: Path) -> dict[str, Any]:
    """Return the first steps at which losses differ, for two learning rates."""
    found: dict[str, Any] = {}
    for lr in ("4", "0.4"):
        words = [*_SETTINGS.split(), "--max-steps", "60", "--lr", lr]
        of = {f"{n} ranks": trained(folder / f"lr-{lr}-{n}", n, *words) for n in (1, 2, 4)}
        run = folder / f"lr-{lr}-control"
        control = [sys.executable, "-c", _DISTURBED, "train", *words, "--out", str(run)]
        subprocess.run(control, check=True, capture_output=True, env=environment())
        of["1 rank, disturbed"] = steps_of(run)
        one = of.pop("1 ranks")
        found[f"lr {lr}"] = {
            name: {f"{limit:g}": until_different(one, losses, limit) for limit in (1e-5, 1e-4, 1e-3)} for name, losses in of.items()
        }
    return found


def numbers(folder: Path) -> dict[str, Any]:
    """Train 20 steps with two ranks, 20 with one and 20 with four; compare with 60 of one."""
    words = [*_SETTINGS.split(), "--lr", "0.4", "--max-steps", "60"]
    whole, run = trained(folder / "whole", 1, *words), folder / "changing"
    for n, stop in ((2, 20), (1, 40), (4, None)):
        first = words if n == 2 else ["--resume"]
        program = [*torchrun(n), "-m", "selfcluster", "train"] if n > 1 else _PROGRAM
        process = subprocess.Popen([*program, *first, "--out", str(run)], stderr=subprocess.PIPE, text=True, env=environment())
        if stop is not None:
            wait_for_step(run, stop)
            process.terminate()
        said = process.communicate(timeout=120)[1]
        if stop is None and process.returncode:
            raise RuntimeError(said[-2000:])
    losses = steps_of(run)
    return {
        "steps": len(losses),
        "largest_relative_difference": max(abs(losses[step] - loss) / loss for step, loss in whole.items()),
        "first_step_beyond_1e-4": until_different(whole, losses, 1e-4),
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--trials", type=int, default=10)
    p.add_argument("--only", nargs="*", default=["death", "hang", "restart", "numbers", "losses"])
    a = p.parse_args()
    draw, found = random.Random(0), dict[str, Any]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, number in (("death", signal.SIGKILL), ("hang", signal.SIGSTOP)):
            if what in a.only:
                rows = []
                for trial in range(a.trials):
                    rows.append(lost(folder, draw, trial, number))
                    print(what, rows[-1], flush=True)
                found[what] = {
                    "trials": a.trials,
                    "right": sum(row["is_right"] for row in rows),
                    "seconds": spread([row["seconds"] for row in rows]),
                    "rows": rows,
                }
        if "restart" in a.only:
            words = [*_SETTINGS.split(), "--max-steps", "60"]
            expected, rows = trained(folder / "undisturbed", 2, *words), []
            for trial in range(max(1, a.trials // 2)):
                rows.append(restarted(folder, expected, trial, words))
                print("restart", rows[-1], flush=True)
            found["restart"] = {"trials": len(rows), "right": sum(row["is_right"] for row in rows), "rows": rows}
        for what, work in (("numbers", numbers), ("losses", compared)):
            if what in a.only:
                found[what] = work(folder)
                print(what, json.dumps(found[what], indent=1), flush=True)
    name = "faults-ranks" if len(a.only) > 1 else f"faults-ranks-{a.only[0]}"
    print(f"-> {record(name, found).name}")


if __name__ == "__main__":
    main()
