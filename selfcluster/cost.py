"""What a run costs on this machine: the time of a step and of the clustering between epochs, from a few real ones."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from selfcluster import distributed, optim
from selfcluster.extraction import extractor
from selfcluster.runs.log import Log
from selfcluster.training import Training


@dataclass(frozen=True)
class Cost:
    """Seconds on this machine."""

    step: float
    """Of a training step."""
    first_assign: float
    """Of what comes before the first epoch: extraction and clustering, where the method wants them."""
    assign: float
    """Of what comes before each later epoch, on average."""
    steps_per_epoch: int

    def of(self, n_steps: int) -> float:
        """Of this many steps from the beginning."""
        later_epochs = max(0, -(-n_steps // self.steps_per_epoch) - 1)
        return self.first_assign + later_epochs * self.assign + n_steps * self.step

    def steps_in(self, seconds: float) -> int:
        """How many steps can be done in this time; one at least."""
        seconds -= self.first_assign
        epoch = self.steps_per_epoch * self.step + self.assign
        whole_epochs = max(0, int((seconds + self.assign) // epoch))
        rest = max(0.0, seconds - whole_epochs * epoch)
        return max(1, whole_epochs * self.steps_per_epoch + int(rest / self.step))


def measure(t: Training, *, n_steps: int = 4, at_least: float = 0.0, at_most: float = 20.0) -> Cost:
    """The cost of a run, from some real clustering and a few real steps on a training that is then thrown away.

    The first step pays for warming up, and the next ones find batches that the workers made meanwhile; both are left out, unless
    the time `at_most` is over before. All ranks take the slowest one's word.

    Args:
        t: from `build`; on fewer images than the run's where clustering them all would take long.
        n_steps: to time.
        at_least, at_most: seconds for the steps; within these, more than `n_steps` are timed.
    """
    log, assigns = Log(None, t.config.run), []
    every = getattr(t.config.objective, "reassign_epochs", 1)
    for epoch in (0, every):
        started = time.perf_counter()
        plan = t.method.begin_epoch(epoch, extractor(t, epoch, log, None))
        assigns.append(time.perf_counter() - started)
    times: list[float] = []
    skipped = 1 + 2 * t.loader.workers
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
        if distributed.any_rank((len(times) > skipped + n_steps and times[-1] > at_least) or times[-1] > at_most):
            break
    t.loader.close()
    each = np.diff(times, prepend=0.0)
    step = float(np.median(each[min(skipped, len(each) - 1) :]))
    step, first, later = (distributed.largest(seconds) for seconds in (step, *assigns))
    return Cost(step, first, later / every, t.method.steps_per_epoch)
