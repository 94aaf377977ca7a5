"""The training step beside the bare forward and backward of the same network, with the same crops already in memory.

    python -m benchmarks.step [DATA ...] [--pairs 5] [--steps 8]

DATA is anything that `selfcluster train` takes; by default the digits. For each, the settings are the recipe's. Both sides run in
one process and in turns (A B A B ...); the ratio is taken pair by pair. Results: results/step-<data>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.record import record, spread
from selfcluster import distributed, loop, training
from selfcluster.batch import Batch
from selfcluster.config import DataSettings, flatten
from selfcluster.data import open_data
from selfcluster.log import Log
from selfcluster.recipe import look_at
from selfcluster.resolve import resolve


class Rows(Log):
    """Says nothing; keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def say(self, message: str) -> None:
        pass

    def row(self, step: int, epoch: int, values: dict[str, float]) -> None:
        self.rows.append(values)

    def start(self, step: int, total_steps: int) -> None:
        pass

    def progress(self, *_: Any) -> None:
        pass

    def working(self, *_: Any) -> None:
        pass

    def assigned(self, *_: Any) -> None:
        pass


def measure(given: str, *, n_pairs: int, n_steps: int) -> dict[str, Any]:
    """Images per second of both sides, their ratio, and the share of time that the step waits for data."""
    device = distributed.start("auto")
    data = open_data(given, DataSettings())
    flags = {"log_steps": n_steps, "on_collapse": "warn", "epochs": 100_000}
    config = resolve("swav", look_at(data.images, len(data.images), device), preset=None, file={}, flags=flags).config
    t = training.build(config, data, device)
    bare = _bare(t)
    log = Rows()

    def full() -> None:
        with contextlib.suppress(loop.Interrupted):
            loop.fit(t, log, None, stop_at=t.state.step + n_steps)

    full()
    for _ in range(2):
        bare()
    log.rows.clear()
    times = [(_seconds(full, device), _seconds(lambda: [bare() for _ in range(n_steps)], device)) for _ in range(n_pairs)]
    images = n_steps * config.optim.batch
    waits = [row["train/data_wait"] for row in log.rows if "train/data_wait" in row]
    kept = ("encoder", "batch", "n_crops", "crop_pixels", "n_prototypes")
    return {
        "data": data.name,
        "settings": {name: flatten(config)[name] for name in kept},
        "precision": str(training.precision_of(config, device)),
        "step_images_per_second": spread([images / a for a, _ in times]),
        "bare_images_per_second": spread([images / b for _, b in times]),
        "step_over_bare": spread([b / a for a, b in times]),
        "data_wait": spread(waits),
    }


def _bare(t: training.Training) -> Callable[[], None]:
    """Forward and backward on one batch of crops that lies in memory."""
    plan = t.method.begin_epoch(0, lambda *_, **__: None)
    batch: Batch = next(iter(t.loader.epoch(0, plan)))
    with torch.no_grad(), t.autocast():
        codes = t.method.assign(t.model(batch.crops), batch)

    def step() -> None:
        with t.autocast():
            out = t.model(batch.crops)
        t.method.loss(out, codes).backward()
        t.model.zero_grad(set_to_none=True)

    return step


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["digits"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    for given in arguments.data:
        figures = measure(given, n_pairs=arguments.pairs, n_steps=arguments.steps)
        file = record(f"step-{figures['data']}", figures)
        ratio, wait = figures["step_over_bare"], figures["data_wait"]
        print(
            f"{figures['data']}: {figures['step_images_per_second']['median']:,.0f} images/s, bare {figures['bare_images_per_second']['median']:,.0f}; "
            f"step/bare {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}, {ratio['n']} pairs); waits {wait['median']:.1%}  -> {file.name}"
        )


if __name__ == "__main__":
    main()
