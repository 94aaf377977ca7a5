"""The cost of a run on this machine, in time and memory, from a few real steps; and the steps and batch that fit."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from selfcluster import distributed
from selfcluster.data.dataset import Data
from selfcluster.device import memory_limit, peak_memory
from selfcluster.distributed import logger
from selfcluster.errors import ConfigError
from selfcluster.formatting import duration
from selfcluster.methods.base import Method
from selfcluster.runs.log import Log
from selfcluster.settings.config import Config
from selfcluster.settings.resolve import ResolvedConfig
from selfcluster.training import time_limit
from selfcluster.training.extraction import extractor, fitted_patches
from selfcluster.training.state import Training, build
from selfcluster.training.step import step

_LARGEST = 4096
"""The paper's largest batch."""

_STEPS_AN_EPOCH = 8
"""Fewest steps in an epoch that `--batch auto` leaves."""

_N_SAMPLED = 8192
"""Images that are clustered to measure the time of clustering."""

_N_PATCHED = 1024
"""The same where the features of patches are clustered, which are slow."""

Resolver = Callable[[Mapping[str, Any]], ResolvedConfig]
"""Function that resolves the config, given settings measured on this machine."""


@dataclass(frozen=True)
class Cost:
    """Times in seconds on this machine."""

    step: float
    """Time of a training step."""
    first_assign: float
    """Time of extraction and clustering before the first epoch, near 0 for online methods, and of running frozen stages."""
    assign: float
    """The same before each later epoch, on average."""
    steps_per_epoch: int

    def of(self, n_steps: int) -> float:
        """Return the time of this many steps from the start."""
        later_epochs = max(0, -(-n_steps // self.steps_per_epoch) - 1)
        return self.first_assign + later_epochs * self.assign + n_steps * self.step

    def steps_in(self, seconds: float) -> int:
        """Return the number of steps that fit in this time; at least one."""
        of_epoch = {"left_in_epoch": self.steps_per_epoch, "steps_per_epoch": self.steps_per_epoch}
        return time_limit.steps_in(seconds - self.first_assign, step=self.step, assign=self.assign, **of_epoch)


def measure(t: Training, *, n_steps: int = 4, at_least: float = 0.0, at_most: float = 20.0) -> Cost:
    """Measure the cost of a run, by real clustering and a few real steps on a training that is then discarded.

    The steps are those of the loop, with accumulation, recomputation and the method's hooks. The first is a warm-up, and the next find batches
    that the workers prepared meanwhile; both are skipped, unless `at_most` seconds pass first. If an epoch has too few steps, its last one
    counts. All ranks return the cost of the slowest.

    Args:
        t: from `build`; on fewer images than the run's if clustering them all would take long.
        n_steps: number of steps to time.
        at_least, at_most: seconds for the steps; within these, more than `n_steps` are timed.
    """
    log, assigns = Log(None, t.config.run), []
    every = getattr(t.config.objective, "reassign_epochs", 1)
    for epoch in (0, every):
        started = time.perf_counter()
        plan = t.method.begin_epoch(epoch, extractor(t, epoch, log, None))
        assigns.append(time.perf_counter() - started)
    skipped = 1 + 2 * t.loader.workers
    batches, before = t.loader.sampled(plan)
    n = 0
    started = time.perf_counter()
    marks = [started]  # end of each of the first steps; later ones may overlap, as in the loop
    for batch in batches:
        step(t, batch)
        n += 1
        if n <= skipped:
            marks.append(_now(t.device))
        passed = time.perf_counter() - started
        if distributed.any_rank((n > skipped + n_steps and passed > at_least) or passed > at_most):
            break
    seconds = (_now(t.device) - marks[-1]) / (n - skipped) if n > skipped else marks[-1] - marks[-2]
    t.loader.close()
    slowest, first, later = (distributed.largest(x) for x in (seconds, assigns[0] + before, assigns[1]))
    return Cost(slowest, first, later / every, t.method.steps_per_epoch)


def _now(device: torch.device) -> float:
    """Return the time once the device has finished its work; between two calls, work on a GPU overlaps as in the loop."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def fit_to_time(resolved: ResolvedConfig, t: Training, opened: Data, resolver: Resolver) -> ResolvedConfig:
    """Set max_steps to the steps that fit in max_minutes on this machine; `t` cannot be used afterwards."""
    minutes = resolved.config.optim.max_minutes
    cost = cost_of(t, opened, at_least=min(10, 2 * minutes), at_most=6 * minutes)
    steps = cost.steps_in(0.95 * 60 * minutes)
    if steps >= t.total_steps:
        logger.info(
            f"max_minutes {minutes:g}: the full schedule of {t.total_steps:,} steps takes about {duration(cost.of(t.total_steps))} and is kept"
        )
        return resolved
    clustering = f" and {cost.assign:.1f} s between epochs" if cost.assign > 0.1 else ""
    pace = f"{cost.step:.2f} s per step{clustering}"
    logger.info(f"max_minutes {minutes:g}: {pace}, so the schedule is shortened to {steps:,} of {t.total_steps:,} steps")
    before = resolved.config.optim.max_steps
    # The steps that were asked for, should there be time for them later.
    most = {"epochs": math.ceil(before / cost.steps_per_epoch)} if before else {}
    fitted = resolver({**most, "max_steps": steps})
    return ResolvedConfig(fitted.config, {**fitted.origins, "max_steps": f"max_minutes {minutes:g} at {pace}"})


def cost_of(t: Training, opened: Data, *, at_least: float = 0.0, at_most: float = 20.0) -> Cost:
    """Measure the cost of a run; that of clustering is extrapolated from a sample of the images. `t` cannot be used afterwards."""
    n, is_online = len(t.method.trained_on), type(t.method).begin_epoch is Method.begin_epoch
    fit = _seconds_to_fit_patches(t)  # the same for any number of images
    n_sampled = min(n, max(_N_PATCHED if fit else _N_SAMPLED, t.config.optim.batch, 4 * max(t.config.n_prototypes)))
    grown = 1.0
    if not is_online and n_sampled < n:
        sample, patches, grown = t.method.trained_on[np.linspace(0, n - 1, n_sampled).astype(np.int64)], t.patches, n / n_sampled
        t.loader.close()
        t = build(t.config, opened, t.device, trained_on=sample)
        t.patches = patches
    cost = measure(t, at_least=at_least, at_most=at_most)
    return Cost(cost.step, fit + grown * cost.first_assign, grown * cost.assign, n // t.config.optim.batch)


def _seconds_to_fit_patches(t: Training) -> float:
    """Fit the encoder of patches, if the first labels are theirs; return the time that it takes."""
    if getattr(t.config.objective, "first_labels", "network") != "patches":
        return 0.0
    started = time.perf_counter()
    fitted_patches(t)
    return distributed.largest(time.perf_counter() - started)


def estimate(t: Training, opened: Data) -> str:
    """Return an estimate of the run's time and memory in words, from a few steps on this machine; `t` cannot be used afterwards."""
    cost, batch, minutes = cost_of(t, opened), t.config.optim.batch, t.config.optim.max_minutes
    n_steps = min(t.total_steps, cost.steps_in(60 * minutes)) if minutes else t.total_steps
    parameters = sum(p.numel() for p in t.model.parameters())
    clustering = f", {cost.assign:.1f} s of clustering between epochs" if cost.assign > 0.1 else ""
    return (
        f"estimate: {parameters / 1e6:.1f} million parameters; {cost.step:.2f} s per step, {batch / cost.step:,.0f} images/s{clustering}; "
        f"{n_steps:,} steps in about {duration(cost.of(n_steps))}; {peak_memory(t.device) / 2**30:.1f} GiB of memory"
    )


@dataclass(frozen=True)
class Capacity:
    """The largest batch that fits, and why it is not larger."""

    batch: int
    peak_bytes: int
    """Peak memory of its step."""
    why: str


def largest_batch(config_of: Callable[[int], Config[Any]], data: Data, device: torch.device) -> Capacity:
    """Return the largest of the recipe's batch, twice that, four times that ... whose step fits the memory.

    Args:
        config_of: returns the settings for a batch; 0 means the recipe's.
        data: images to train on.
        device: device to train on.
    Returns:
        the recipe's batch if even that does not fit; `accumulate` or `recompute` may help then.
    Raises:
        ConfigError: there are several ranks: if one ran out of memory in the middle of a step, the others would wait for it forever.
    """
    if distributed.is_on():
        raise ConfigError(f"batch auto cannot be used with {distributed.n_ranks()} ranks; set --batch, for example to what it finds on one")
    batch = config_of(0).optim.batch
    n = len(data.trained_on(config_of(0).data, config_of(0).run.seed))
    limit, before = memory_limit(device), peak_memory(device)
    found = Capacity(batch, 0, f"a step of {batch:,} does not fit")
    while True:
        peak = _peak_of_a_step(config_of(batch), data, device)
        if peak is None or peak > limit:
            return found
        grown = before + 2 * (peak - before)
        if 2 * batch > min(_LARGEST, n // _STEPS_AN_EPOCH):
            return Capacity(
                batch, peak, f"{n:,} images are too few for a larger one" if 2 * batch <= _LARGEST else "the paper has no larger one"
            )
        # Without a GPU, trying what does not fit may end other programs.
        found = Capacity(batch, peak, f"{2 * batch:,} would not fit {limit / 2**30:.1f} GiB")
        if device.type == "cpu" and grown > limit:
            return found
        batch *= 2


def _peak_of_a_step(config: Config[Any], data: Data, device: torch.device) -> int | None:
    """Return the peak memory of a step in bytes; None if it does not fit."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    every = data.trained_on(config.data, config.run.seed)
    n_sampled = min(len(every), max(config.optim.batch, 4 * max(config.n_prototypes)))
    t = None
    try:
        t = build(config, data, device, trained_on=every[np.linspace(0, len(every) - 1, n_sampled).astype(np.int64)])
        measure(t, n_steps=1, at_most=0.0)
        return int(distributed.largest(peak_memory(device)))
    except torch.OutOfMemoryError:
        return None
    finally:
        if t is not None:
            t.loader.close()
        del t
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
