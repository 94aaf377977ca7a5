"""What fits this machine: the largest batch whose step its memory holds."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from selfcluster import distributed, training
from selfcluster.cost import measure
from selfcluster.data.sources import Data
from selfcluster.device import memory_limit, peak_memory
from selfcluster.settings.config import Config

_LARGEST = 4096
"""The paper's largest batch."""

_STEPS_AN_EPOCH = 8
"""So many at least, or there is nothing to learn from."""


@dataclass(frozen=True)
class Capacity:
    """The batch that was found, and why it is no larger."""

    batch: int
    peak_bytes: int
    """That its step took."""
    why: str


def largest_batch(config_of: Callable[[int], Config[Any]], data: Data, device: torch.device) -> Capacity:
    """The largest of the recipe's batch, twice that, four times that ... whose step fits the memory.

    Args:
        config_of: the settings for a batch; 0 stands for the recipe's.
        data: to train on.
        device: to train on.
    Returns:
        the recipe's batch where even that does not fit; `accumulate` or `recompute` may help then.
    """
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
            return Capacity(batch, peak, f"{n:,} images want no larger one" if 2 * batch <= _LARGEST else "the paper has no larger one")
        # To try what does not fit may cost a computer its other programs.
        found = Capacity(batch, peak, f"{2 * batch:,} would not fit {limit / 2**30:.1f} GiB")
        if device.type == "cpu" and grown > limit:
            return found
        batch *= 2


def _peak_of_a_step(config: Config[Any], data: Data, device: torch.device) -> int | None:
    """Bytes at most during a step; None where it does not fit."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    every = data.trained_on(config.data, config.run.seed)
    n_sampled = min(len(every), max(config.optim.batch, 4 * max(config.n_prototypes)))
    t = None
    try:
        t = training.build(config, data, device, trained_on=every[np.linspace(0, len(every) - 1, n_sampled).astype(np.int64)])
        measure(t, n_steps=1, at_most=0.0)
        peak: int | None = int(distributed.largest(peak_memory(device)))
    except torch.OutOfMemoryError:
        peak = None
    finally:
        if t is not None:
            t.loader.close()
        del t
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return peak
