"""The training step of SwAV, compared with the bare forward and backward pass and with a step built from lightly.

    python -m benchmarks.step [NAME=DATA ...] [--pairs 5] [--steps 8] [--peer] [--set encoder=resnet50 ...]

DATA is anything that `selfcluster train` accepts (default: the digits). Settings are the recipe's, except those given by --set. The bare
step has the same crops, already in memory. The lightly step (--peer, extra bench) has the same encoder, crops, batch size, prototypes and
precision, and one worker per core; settings of this process for threads and memory apply to it too. All run in one process and
take turns (A B C A B C ...); ratios are computed turn by turn. Results: results/step-NAME.json.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.command_line import parser, settings_from
from benchmarks.markdown import ratio
from benchmarks.record import record, spread
from selfcluster import methods, optim
from selfcluster.data.dataset import Data
from selfcluster.data.inspect import look_at
from selfcluster.data.loader import Batch
from selfcluster.data.sources import open_data
from selfcluster.device import start
from selfcluster.errors import Interrupted
from selfcluster.runs.log import Log
from selfcluster.settings.config import Config, DataSettings, RunSettings, flatten
from selfcluster.settings.resolve import Profile, resolve
from selfcluster.training import loop, state

Turn = Callable[[int], float]
"""Does a number of steps and returns their seconds."""


class MetricsLog(Log):
    """A log that keeps the rows of metrics in memory."""

    def __init__(self) -> None:
        super().__init__(None, RunSettings())
        self.rows: list[dict[str, float]] = []

    def row(self, step: int, epoch: int, values: dict[str, float]) -> None:
        self.rows.append(values)


def measure(source: str, settings: dict[str, Any], *, n_pairs: int, n_steps: int, peer: bool) -> dict[str, Any]:
    """Return the images/s of each contestant, ratios of our step to the others, and the share of time spent waiting for data."""
    t, data, log = build(source, settings, log_steps=n_steps)
    contestants = {"step": whole(t, log), "bare": bare(t), "rest": rest(t)}
    if peer:
        contestants["lightly"] = lightly(t, data)
    for turn in contestants.values():
        turn(n_steps)
    log.rows.clear()
    turns = [{name: turn(n_steps) for name, turn in contestants.items()} for _ in range(n_pairs)]
    images = n_steps * t.config.optim.batch
    waits = [row["train/data_wait"] for row in log.rows if "train/data_wait" in row]
    return {
        "settings": main_settings(t.config),
        "precision": str(t.precision),
        "images_per_second": {name: spread([images / turn[name] for turn in turns]) for name in contestants if name != "rest"},
        "step_over": {name: spread([turn[name] / turn["step"] for turn in turns]) for name in contestants if name not in ("step", "rest")},
        "share_of_codes_loss_and_update": spread([turn["rest"] / turn["step"] for turn in turns]),
        "data_wait": spread(waits),
        "peak_bytes": torch.cuda.max_memory_allocated() if t.device.type == "cuda" else None,
        "other_versions": {"lightly": version("lightly")} if peer else {},
    }


def build(source: str, settings: dict[str, Any], *, log_steps: int) -> tuple[state.Training, Data, MetricsLog]:
    """Prepare training up to its first step."""
    device = start("auto")
    data = open_data(source, DataSettings())
    flags = {"log_steps": log_steps, "on_collapse": "warn", "epochs": 100_000, **settings}
    config = resolve(Profile("swav"), look_at(data.images, len(data.images), device), file={}, flags=flags).config
    return state.build(config, data, device), data, MetricsLog()


def main_settings(config: Config[Any]) -> dict[str, Any]:
    """Return the settings that are recorded and shown in tables."""
    values = flatten(config)
    return {
        name: values[name] for name in ("encoder", "batch", "n_crops", "crop_pixels", "n_prototypes", "workers", "threads", "cache_gib")
    }


def whole(t: state.Training, log: MetricsLog) -> Turn:
    """The loop itself."""

    def turn(n_steps: int) -> float:
        with _timed(t.device) as seconds, contextlib.suppress(Interrupted):
            loop.fit(t, log, None, stop_at=t.state.step + n_steps)
        return seconds[0]

    return turn


def bare(t: state.Training) -> Turn:
    """Forward and backward on one batch of crops in memory."""
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


def rest(t: state.Training) -> Turn:
    """A step without crops and network: codes, loss and its gradient at the scores, clipping, update with a learning rate of 0."""
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


class _PILImages(Dataset):
    """Images as lightly's transform expects them."""

    def __init__(self, data: Data, transform: Callable[[Image.Image], list[torch.Tensor]]) -> None:
        self.images, self.transform = data.images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        if self.images.in_memory:
            pixels = self.images.array[index]
            return self.transform(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB"))
        with Image.open(self.images.root / self.images.path(index)) as image:
            return self.transform(image.convert("RGB"))


def lightly(t: state.Training, data: Data) -> Turn:
    """lightly's example of SwAV with our encoder."""
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
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters(), *prototypes.parameters()], lr=1e-3)
    loader = DataLoader(
        _PILImages(data, transform),
        batch_size=t.config.optim.batch,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=t.device.type == "cuda",
    )

    def batches() -> Generator[list[torch.Tensor], None, None]:
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
        # The workers run only during this turn. A first step, not timed, lets them fill their queue.
        views = batches()
        step(next(views))
        with _timed(t.device) as seconds:
            for _ in range(n_steps):
                step(next(views))
        views.close()
        return seconds[0]

    return turn


@contextlib.contextmanager
def _timed(device: torch.device) -> Iterator[list[float]]:
    """Append the seconds spent in the block to the list it yields."""
    seconds: list[float] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    yield seconds
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds.append(time.perf_counter() - started)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("data", nargs="*", default=["digits=digits"], metavar="NAME=DATA")
    p.add_argument("--pairs", type=int, default=5, help="turns of each contestant")
    p.add_argument("--steps", type=int, default=8, help="steps per turn")
    p.add_argument("--peer", action="store_true", help="also measure lightly")
    p.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE")
    a = p.parse_args()
    for name, source in (pair.split("=", 1) for pair in a.data):
        figures = measure(source, settings_from(a.set), n_pairs=a.pairs, n_steps=a.steps, peer=a.peer)
        file = record(f"step-{name}", {"data": name, **figures})
        speeds = ", ".join(f"{who} {speed['median']:,.1f} images/s" for who, speed in figures["images_per_second"].items())
        ratios = ", ".join(f"step / {who} {ratio(r)}" for who, r in figures["step_over"].items())
        print(f"{name}: {speeds}; {ratios}; waiting {figures['data_wait']['median']:.1%} of the time -> {file.name}")


if __name__ == "__main__":
    main()
