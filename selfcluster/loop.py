"""The loop: assign, predict, update, for every method alike."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from selfcluster import distributed, optim, randomness
from selfcluster.batch import EpochPlan
from selfcluster.checkpoint import load_checkpoint, save_checkpoint
from selfcluster.config import Config
from selfcluster.crops import MultiCrop
from selfcluster.data import Data
from selfcluster.encoders import create_encoder, feature_width
from selfcluster.errors import ConfigError, DataError
from selfcluster.health import Watch, require_finite
from selfcluster.initial import load_initial_weights
from selfcluster.loader import Loader
from selfcluster.log import Log
from selfcluster.methods import METHODS, Method
from selfcluster.model import ClusterModel, synchronize_batch_norm


@dataclass
class State:
    """Where training stands. Part of every checkpoint."""

    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    seconds: float = 0.0
    """Spent training, over all sessions."""
    plan: EpochPlan | None = None


@dataclass
class Training:
    """Everything that a run holds while it trains."""

    config: Config[Any]
    device: torch.device
    model: ClusterModel
    parallel: nn.Module
    method: Method
    optimizers: dict[str, torch.optim.Optimizer]
    loader: Loader
    watch: Watch
    total_steps: int
    state: State

    @property
    def parameter_names(self) -> dict[nn.Parameter, str]:
        """Bare names, the same with and without data parallelism."""
        return {parameter: name for name, parameter in self.model.named_parameters()}

    def autocast(self) -> AbstractContextManager:
        """The precision of encoder and head."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision_of(self.config, self.device) == torch.bfloat16)


def precision_of(config: Config[Any], device: torch.device) -> torch.dtype:
    """The network's precision: auto is bf16 where the device multiplies it faster, which is CUDA from Ampere on and a CPU with AMX."""
    asked = config.run.precision
    if asked == "auto":
        has_amx = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        return (
            torch.bfloat16
            if has_amx or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
            else torch.float32
        )
    return torch.bfloat16 if asked == "bf16" else torch.float32


def build_model(config: Config[Any]) -> ClusterModel:
    """The network with its starting weights, a function of the seed; on the CPU."""
    with torch.random.fork_rng(devices=[]):
        randomness.reseed(config.run.seed)
        encoder = create_encoder(config.model.encoder, config.crops.crop_pixels, pretrained=config.model.init == "pretrained")
        model = ClusterModel(
            encoder,
            feature_width(encoder, config.crops.crop_pixels[0]),
            head_width=config.model.head_width,
            embedding_width=config.model.embedding_width,
            n_prototypes=config.objective.n_prototypes,
            n_assign=config.crops.n_crops[0],
        )
    return model.to(memory_format=torch.channels_last) if config.run.channels_last else model


def build(config: Config[Any], data: Data, device: torch.device) -> Training:
    """Everything, at step 0.

    Raises:
        ConfigError: the ranks do not divide the batch, or a setting that the network refuses.
        DataError: fewer images than the batch.
    """
    batch, ranks = config.optim.batch, distributed.n_ranks()
    trained_on = data.trained_on(config.data, config.run.seed)
    if len(trained_on) < batch:
        raise DataError(f"{len(trained_on):,} images are fewer than the batch of {batch}; set --batch {len(trained_on)} or less")
    if batch % ranks:
        raise ConfigError(f"batch {batch} does not divide among {ranks} ranks; set --batch {math.ceil(batch / ranks) * ranks}")
    model = build_model(config)
    load_initial_weights(model, config.model.init)
    if ranks > 1:
        synchronize_batch_norm(model)
    model.to(device)
    steps_per_epoch = len(trained_on) // batch
    total_steps = min(config.optim.epochs * steps_per_epoch, config.optim.max_steps or math.inf)
    method = METHODS[config.method](config, model, trained_on, steps_per_epoch=steps_per_epoch, total_steps=int(total_steps))
    loader = Loader(
        data.images,
        MultiCrop(config.crops.n_crops, config.crops.crop_pixels, config.crops.area, config.augment),
        batch=batch,
        seed=config.run.seed,
        device=device,
        workers=n_workers(config, data),
        max_broken_share=config.data.max_broken_share,
    )
    begins = max(config.objective.freeze_steps, round(config.optim.warmup_epochs * steps_per_epoch))
    return Training(
        config=config,
        device=device,
        model=model,
        parallel=DistributedDataParallel(model, broadcast_buffers=False) if ranks > 1 else model,
        method=method,
        optimizers=optim.build_optimizers(method.parameter_groups()),
        loader=loader,
        watch=Watch(config.health, n_prototypes=config.objective.n_prototypes, begins=begins),
        total_steps=int(total_steps),
        state=State(),
    )


def n_workers(config: Config[Any], data: Data) -> int:
    """Automatic: none for images in memory; otherwise one a core of this rank's share, up to 8."""
    import os

    if config.run.workers >= 0:
        return config.run.workers
    return 0 if data.images.in_memory else max(1, min(8, (os.cpu_count() or 1) // distributed.n_ranks()))


def fit(t: Training, log: Log, folder: Path | None, *, stop_at: int | None = None) -> None:
    """The model is trained; a checkpoint stands at the end and every few minutes.

    Args:
        t: from `build`, perhaps `restore`d.
        log: what is said.
        folder: the run's, for checkpoints; None writes none.
        stop_at: leave after this step, with a checkpoint, as a signal does.
    Raises:
        CollapseError, DivergenceError: see `health`.
        Interrupted: a signal asked to leave; a checkpoint was written.
    """
    s, config = t.state, t.config
    pace = _Pace(t)
    log.start(s.step, t.total_steps)
    with _signals() as asked:
        for epoch in range(s.epoch, math.ceil(t.total_steps / t.method.steps_per_epoch)):
            if s.step_in_epoch == 0:
                s.plan = t.method.begin_epoch(epoch, _extract)
            assert s.plan is not None
            for batch in t.loader.epoch(epoch, s.plan, start=s.step_in_epoch):
                # --------------------------------------------------------------- one step
                lr = optim.set_lr(t.optimizers, s.step)
                randomness.reseed(config.run.seed, s.step, distributed.rank())
                with t.autocast():
                    out = t.parallel(batch.crops)
                require_finite(out.embeddings, s.step)
                targets = t.method.assign(out, batch)
                loss = t.method.loss(out, targets)
                loss.backward()
                t.method.before_update(s.step)
                optim.clip_gradients(t.optimizers, config.optim.clip_norm)
                optim.update(t.optimizers)
                t.method.after_update(out, batch, s.step)
                # ------------------------------------------------------------------------
                t.watch.see(out, targets, loss, s.step)
                s.step, s.step_in_epoch = s.step + 1, s.step_in_epoch + 1
                is_last = s.step == t.total_steps
                if s.step % config.run.log_steps == 0 or is_last:
                    pace.report(log, lr, epoch)
                must_leave = s.step == stop_at or _somebody_asked(asked, s.step)
                if folder is not None and (is_last or must_leave or pace.checkpoint_is_due()):
                    save_training(t, folder, pace, log)
                if must_leave and not is_last:
                    raise Interrupted(asked[0] if asked else signal.SIGTERM, s.step)
                if is_last:
                    break
            log.row(s.step, epoch, {"collapse/rankme": t.watch.rankme()})
            s.epoch, s.step_in_epoch = epoch + 1, 0


def _extract(*_: Any, **__: Any) -> Any:
    raise NotImplementedError("offline methods bring the extraction with them")


class Interrupted(Exception):  # noqa: N818 - no error: it was asked for
    """A signal asked the run to leave; its checkpoint is written."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"left at step {step} with a checkpoint")
        self.exit_status = 128 + number


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Inside, SIGTERM, SIGUSR1 and Ctrl-C are noted, and the loop leaves at the next step; a second Ctrl-C leaves at once."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        asked.append(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, note) for number in numbers}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _somebody_asked(asked: list[int], step: int) -> bool:
    """Whether any rank was asked to leave; ranks compare notes every few steps, so that all leave at the same one."""
    if distributed.is_on():
        return step % 10 == 0 and distributed.any_rank(bool(asked))
    return bool(asked)


class _Pace:
    """Time: how fast, how long still, and when the next checkpoint is due."""

    def __init__(self, t: Training) -> None:
        self.t = t
        self.started = self.row_at = self.saved_at = time.perf_counter()
        self.seconds_before, self.step_at_row, self.first_step = t.state.seconds, t.state.step, t.state.step

    def seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started

    def report(self, log: Log, lr: float, epoch: int) -> None:
        t, now = self.t, time.perf_counter()
        signs = t.watch.read()
        if t.watch.warned:
            log.say(f"warning: {t.watch.warned}")
            t.watch.warned = None
        n_steps, passed = t.state.step - self.step_at_row, now - self.row_at
        values = {
            **signs,
            "train/lr": lr,
            "train/images_per_second": n_steps * t.config.optim.batch / passed,
            "train/data_wait": t.loader.wait_seconds / passed,
        }
        t.loader.wait_seconds, self.row_at, self.step_at_row = 0.0, now, t.state.step
        left = (now - self.started) / (t.state.step - self.first_step) * (t.total_steps - t.state.step)
        log.row(t.state.step, epoch, values)
        log.progress(t.state.step, t.total_steps, epoch, values, left)

    def checkpoint_is_due(self) -> bool:
        due = time.perf_counter() - self.saved_at > 60 * self.t.config.run.checkpoint_minutes
        # Only one clock counts, or the ranks would write at different steps.
        return self.t.state.step % 10 == 0 and distributed.any_rank(due) if distributed.is_on() else due


def save_training(t: Training, folder: Path, pace: _Pace, log: Log) -> None:
    """A checkpoint of this step is on the disk; collective, rank 0 writes.

    Raises:
        DivergenceError: a loss since the last reading was not finite; nothing is overwritten.
    """
    unread = t.watch.read()
    if unread:
        log.row(t.state.step, t.state.epoch, unread)
    t.state.seconds, pace.saved_at = pace.seconds(), time.perf_counter()
    tensors = {
        "model": t.model.state_dict(),
        "method": t.method.state_dict(),
        "optimizer": optim.state_by_name(t.optimizers, t.parameter_names),
        "plan": {"order": torch.from_numpy(t.state.plan.order)} if t.state.plan is not None else {},
    }
    s, broken = t.state, distributed.joined(t.loader.broken)
    if distributed.rank() == 0:
        counts = {"epoch": s.epoch, "step_in_epoch": s.step_in_epoch, "seconds": s.seconds}
        save_checkpoint(folder / "checkpoints", s.step, tensors, {**counts, "broken": sorted(broken.items())})
    distributed.barrier()


def restore(t: Training, folder: Path) -> None:
    """Training stands where the last checkpoint was written."""
    tensors, state = load_checkpoint(folder / "checkpoints")
    t.model.load_state_dict(tensors["model"])
    t.method.load_state_dict(tensors["method"])
    optim.load_state_by_name(t.optimizers, t.parameter_names, tensors["optimizer"])
    t.loader.broken = {int(index): reason for index, reason in state["broken"]}
    plan = EpochPlan(tensors["plan"]["order"].numpy()) if "plan" in tensors else None
    t.state = State(state["epoch"], state["step"], state["step_in_epoch"], state["seconds"], plan)
    if state["step_in_epoch"] >= t.method.steps_per_epoch:
        t.state.epoch, t.state.step_in_epoch = state["epoch"] + 1, 0


def seconds_per_step(t: Training, *, n_steps: int = 4, at_most: float = 20.0) -> float:
    """Time of a training step on this machine, from a few real ones on a training that is then thrown away."""
    times: list[float] = []
    plan = t.method.begin_epoch(0, _extract)
    started = time.perf_counter()
    for batch in t.loader.epoch(0, plan):
        optim.set_lr(t.optimizers, 0)
        with t.autocast():
            out = t.parallel(batch.crops)
        loss = t.method.loss(out, t.method.assign(out, batch))
        loss.backward()
        optim.update(t.optimizers)
        loss.item()
        times.append(time.perf_counter() - started)
        if len(times) > n_steps or times[-1] > at_most:
            break
    t.loader.close()
    # The first step pays for warming up.
    return float(np.median(np.diff(times))) if len(times) > 1 else times[0]
