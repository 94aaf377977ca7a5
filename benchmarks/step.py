"""The training step of SwAV beside the bare forward and backward of the same network, and beside a step built of lightly's parts.

    python -m benchmarks.step [NAME=DATA ...] [--pairs 5] [--steps 8] [--peer] [--set encoder=resnet50 ...]

DATA is anything that `selfcluster train` takes; by default the digits. Settings are the recipe's, but for those that are set. The bare
step has the same crops already in memory. The peer (--peer, extra bench) has the same encoder, crops, batch, prototypes and precision,
with as many workers as there are cores, and profits from whatever this process has been told of threads and memory. All run in one
process and in turns (A B C A B C ...); ratios are taken turn by turn. Results: results/step-NAME.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.quality import value_of
from benchmarks.record import record, spread
from selfcluster import methods, optim
from selfcluster.data.dataset import Data
from selfcluster.data.inspect import look_at
from selfcluster.data.loader import Batch
from selfcluster.data.sources import open_data
from selfcluster.device import start
from selfcluster.runs.log import Log
from selfcluster.settings.config import Config, DataSettings, flatten
from selfcluster.settings.resolve import resolve
from selfcluster.training import loop, state

Turn = Callable[[int], float]
"""Does so many steps, and says how many seconds they took."""


class Rows(Log):
    """Says nothing; keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def say(self, message: str, level: int = 0) -> None:
        pass

    def row(self, step: int, epoch: int, values: dict[str, float]) -> None:
        self.rows.append(values)

    def progress(self, *_: Any) -> None:
        pass

    def working(self, *_: Any) -> None:
        pass

    def assigned(self, *_: Any) -> None:
        pass


def measure(given: str, settings: dict[str, Any], *, n_pairs: int, n_steps: int, peer: bool) -> dict[str, Any]:
    """Images per second of each, our step over the others', and the share of time that it waits for data."""
    t, data, log = prepared(given, settings, log_steps=n_steps)
    contestants = {"step": whole(t, log), "bare": bare(t), "beside": beside(t)}
    if peer:
        contestants["lightly"] = lightly(t, data)
    for turn in contestants.values():
        turn(n_steps)
    log.rows.clear()
    turns = [{name: turn(n_steps) for name, turn in contestants.items()} for _ in range(n_pairs)]
    images = n_steps * t.config.optim.batch
    waits = [row["train/data_wait"] for row in log.rows if "train/data_wait" in row]
    return {
        "settings": kept(t.config),
        "precision": str(t.precision),
        "images_per_second": {name: spread([images / turn[name] for turn in turns]) for name in contestants if name != "beside"},
        "step_over": {
            name: spread([turn[name] / turn["step"] for turn in turns]) for name in contestants if name not in ("step", "beside")
        },
        "share_of_codes_loss_and_update": spread([turn["beside"] / turn["step"] for turn in turns]),
        "data_wait": spread(waits),
        "peak_bytes": torch.cuda.max_memory_allocated() if t.device.type == "cuda" else None,
        "other_versions": {"lightly": version("lightly")} if peer else {},
    }


def prepared(given: str, settings: dict[str, Any], *, log_steps: int) -> tuple[state.Training, Data, Rows]:
    """Training that stands before its first step, and where its rows go."""
    device = start("auto")
    data = open_data(given, DataSettings())
    flags = {"log_steps": log_steps, "on_collapse": "warn", "epochs": 100_000, **settings}
    config = resolve("swav", look_at(data.images, len(data.images), device), preset=None, file={}, flags=flags).config
    return state.build(config, data, device), data, Rows()


def kept(config: Config[Any]) -> dict[str, Any]:
    """The settings that a table names."""
    values = flatten(config)
    return {
        name: values[name] for name in ("encoder", "batch", "n_crops", "crop_pixels", "n_prototypes", "workers", "threads", "cache_gib")
    }


def whole(t: state.Training, log: Rows) -> Turn:
    """The loop itself."""

    def turn(n_steps: int) -> float:
        with _timed(t.device) as seconds, contextlib.suppress(loop.Interrupted):
            loop.fit(t, log, None, stop_at=t.state.step + n_steps)
        return seconds[0]

    return turn


def bare(t: state.Training) -> Turn:
    """Forward and backward on one batch of crops that lies in memory."""
    plan = t.method.begin_epoch(0, lambda *_, **__: None)
    batch: Batch = next(iter(t.loader.epoch(0, plan)))
    with torch.no_grad(), t.autocast():
        codes = t.method.assign(t.model(batch.crops), batch)

    def turn(n_steps: int) -> float:
        with _timed(t.device) as seconds:
            for _ in range(n_steps):
                with t.autocast():
                    out = t.model(batch.crops)
                t.method.loss(out, codes).backward()
                t.model.zero_grad(set_to_none=True)
        return seconds[0]

    return turn


def beside(t: state.Training) -> Turn:
    """What a step does beside crops and network: codes, loss and its gradient at the scores, clipping and update, at a rate of 0."""
    plan = t.method.begin_epoch(0, lambda *_, **__: None)
    batch: Batch = next(iter(t.loader.epoch(0, plan)))
    with t.autocast():
        out = t.model(batch.crops)
    t.method.loss(out, t.method.assign(out, batch)).backward()
    gradients = {p: p.grad for p in t.model.parameters() if p.grad is not None}
    out = replace(out, scores=[scores.detach().requires_grad_() for scores in out.scores])

    def turn(n_steps: int) -> float:
        for optimizer in t.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = 0.0
        with _timed(t.device) as seconds:
            for _ in range(n_steps):
                t.method.loss(out, t.method.assign(out, batch)).backward()
                for parameter, gradient in gradients.items():
                    parameter.grad = gradient
                optim.clip_gradients(t.optimizers, t.config.optim.clip_norm)
                optim.update(t.optimizers)
        return seconds[0]

    return turn


class _Pictures(Dataset):
    """Images as lightly's transform wants them."""

    def __init__(self, data: Data, transform: Callable[[Image.Image], list[torch.Tensor]]) -> None:
        self.images, self.transform = data.images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        if self.images.in_memory:
            pixels = self.images.array[index]  # type: ignore[attr-defined]
            return self.transform(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB"))
        with Image.open(self.images.root / self.images.path(index)) as image:  # type: ignore[attr-defined]
            return self.transform(image.convert("RGB"))


def lightly(t: state.Training, data: Data) -> Turn:
    """As in lightly's own example of SwAV, with our encoder."""
    from lightly.loss import SwaVLoss
    from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
    from lightly.transforms import SwaVTransform

    c, m = t.config.crops, t.config.model
    low, high = zip(*c.area, strict=True)
    transform = SwaVTransform(crop_sizes=c.crop_pixels, crop_counts=c.n_crops, crop_min_scales=low, crop_max_scales=high)
    encoder = methods.build_model(t.config).encoder.to(t.device)
    head = SwaVProjectionHead(t.model.n_features, m.head_width, m.embedding_width).to(t.device)
    prototypes = SwaVPrototypes(m.embedding_width, t.config.n_prototypes[0]).to(t.device)
    criterion = SwaVLoss()
    parameters = [*encoder.parameters(), *head.parameters(), *prototypes.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    loader = DataLoader(
        _Pictures(data, transform),
        batch_size=t.config.optim.batch,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=t.device.type == "cuda",
    )

    def batches() -> Iterator[list[torch.Tensor]]:
        while True:
            yield from loader

    def step(views: list[torch.Tensor]) -> None:
        prototypes.normalize()
        with t.autocast():
            crops = [view.to(t.device, non_blocking=True).contiguous(memory_format=torch.channels_last) for view in views]
            scores = [prototypes(torch.nn.functional.normalize(head(encoder(crop)), dim=1)) for crop in crops]
        loss = criterion([s.float() for s in scores[: c.n_crops[0]]], [s.float() for s in scores[c.n_crops[0] :]])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def turn(n_steps: int) -> float:
        # Its workers run in its own turns only; those that begin have batches ready when the clock starts.
        coming = batches()
        step(next(coming))
        with _timed(t.device) as seconds:
            for _ in range(n_steps):
                step(next(coming))
        coming.close()
        return seconds[0]

    return turn


@contextlib.contextmanager
def _timed(device: torch.device) -> Iterator[list[float]]:
    """Inside time passes; afterwards the list holds how many seconds."""
    seconds: list[float] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    yield seconds
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds.append(time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="*", default=["digits=digits"], metavar="NAME=DATA")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    a = parser.parse_args()
    settings = {name: value_of(text) for name, text in (pair.split("=", 1) for pair in a.set)}
    for name, given in (pair.split("=", 1) for pair in a.data):
        figures = measure(given, settings, n_pairs=a.pairs, n_steps=a.steps, peer=a.peer)
        file = record(f"step-{name}", {"data": name, **figures})
        speeds = ", ".join(f"{who} {speed['median']:,.1f} images/s" for who, speed in figures["images_per_second"].items())
        ratios = ", ".join(f"step / {who} {r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for who, r in figures["step_over"].items())
        print(f"{name}: {speeds}; {ratios}; waits {figures['data_wait']['median']:.1%}  -> {file.name}")


if __name__ == "__main__":
    main()
