"""Collapses, provoked and cured: every method by each of three causes, and no alarm without one.

    python -m benchmarks.faults.collapse [--steps 2000] [--seeds 3] [--only provoked healthy] [--data digits cifar10.npz ...] [--jobs 1]

provoked  a learning rate far too high, an epsilon or temperature far too large, prototypes many times the batch or nearly as many as images. For each: the
          step at which it is recognized, whether the message names the setting, and whether the run is healthy once it is followed.
healthy   every method with the recipe on every data set, as many seeds: an alarm is a false one.
With --only, the other part stays as it was recorded. Results: results/faults-collapse.json.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.command_line import parser
from benchmarks.record import RESULTS, record, recorded
from selfcluster.api import train
from selfcluster.errors import CollapseError
from selfcluster.settings.config import METHOD_SETTINGS

_SMALL: dict[str, Any] = {"encoder": "resnet10_small_quarter_s2", "batch": 32, "device": "cpu", "threads": 1}
_CAUSES: dict[str, dict[str, dict[str, Any]]] = {
    "rate": {
        "swav": {"lr": 400.0},
        "deepcluster": {"lr": 400.0},
        "deepcluster-v2": {"lr": 400.0},
        "sela-v2": {"lr": 400.0},
    },
    "temperature": {
        "swav": {"epsilon": 10.0},
        "deepcluster": {"top_lr": 100.0},  # DeepCluster has neither; the rate of its top layer takes that place
        "deepcluster-v2": {"temperature": 50.0},
        "sela-v2": {"temperature": 50.0},
    },
    "prototypes": {
        "swav": {"n_prototypes": 3000},
        "deepcluster": {"n_prototypes": 1500},
        "deepcluster-v2": {"n_prototypes": [1500, 1500, 1500]},
        "sela-v2": {"n_prototypes": [1500, 1500, 1500]},
    },
}


def outcome(data: str, method: str, steps: int, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Train, and return the alarm and its step, or what the run has reached without one."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        try:
            run = train(data, method=method, out=out, seed=seed, max_steps=steps, epochs=10_000, **settings)
        except CollapseError as error:
            said = str(error)
            rows = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").is_file() else []
            numbers = [int(n) for n in re.findall(r"at step (\d+)", said)] or [
                int(re.findall(r'"step": (\d+)', rows[-1])[0]) if rows else 0
            ]
            return {"alarm": type(error).__name__, "step": numbers[0], "said": said}
        last = [row for row in run.metrics if "train/loss" in row][-1]
        return {
            "alarm": None,
            "step": last["step"],
            "loss": last["train/loss"],
            "kNN": run.evaluate(only=["knn"], baselines=False).figures["trained encoder"],
        }


def provoked(data: str, steps: int) -> list[dict[str, Any]]:
    rows = []
    for cause, of_methods in _CAUSES.items():
        for method, settings in of_methods.items():
            found = outcome(data, method, steps, 0, {**_SMALL, **settings})
            (name,) = settings
            cured = outcome(data, method, steps, 0, _SMALL) if found["alarm"] else None
            named = name in found.get("said", "") or name.removeprefix("n_") in found.get("said", "")
            rows.append({"cause": cause, "method": method, "set": settings, **found, "names_it": named, "followed": cured})
            print(rows[-1], flush=True)
    return rows


def healthy(data: list[str], steps: int, seeds: int, jobs: int) -> list[dict[str, Any]]:
    rows = []
    cases = [(of, method, seed) for of in data for method in METHOD_SETTINGS for seed in range(seeds)]
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare) as pool:
        found = pool.map(
            outcome, *zip(*((of, method, steps, seed, {"device": "cpu", "threads": 1}) for of, method, seed in cases), strict=True)
        )
        for (of, method, seed), reached in zip(cases, found, strict=True):
            rows.append({"data": Path(of).name, "method": method, "seed": seed, **reached})
            print(rows[-1], flush=True)
    return rows


def _prepare() -> None:
    """Use one thread, and log only errors."""
    logging.getLogger("selfcluster").setLevel(logging.ERROR)
    torch.set_num_threads(1)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--steps", type=int, default=2000)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--only", nargs="*", default=["provoked", "healthy"])
    p.add_argument("--data", nargs="*", default=["digits"])
    p.add_argument("--jobs", type=int, default=1, help="runs with the recipe that are trained at a time")
    a = p.parse_args()
    _prepare()
    before = recorded("faults-collapse") if (RESULTS / "faults-collapse.json").is_file() else {}
    found: dict[str, Any] = {part: before[part] for part in ("provoked", "healthy") if part in before and part not in a.only}
    if "provoked" in a.only:
        found["provoked"] = provoked("digits", a.steps)
    if "healthy" in a.only:
        rows = healthy(a.data, a.steps, a.seeds, a.jobs)
        found["healthy"] = {"steps": a.steps, "runs": len(rows), "alarms": sum(bool(row["alarm"]) for row in rows), "rows": rows}
    steps = a.steps if "provoked" in a.only else before.get("steps")
    print(f"-> {record('faults-collapse', {'steps': steps, **found}).name}")


if __name__ == "__main__":
    main()
