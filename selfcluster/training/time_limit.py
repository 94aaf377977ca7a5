"""Keeping to --max-minutes while the load of the machine changes.

`budget.fit_to_time` plans the number of steps from a few of them. At every line of the log, the steps that are left are then counted anew from
the pace of the latest ones, and the rest of the schedule of the learning rate is stretched over them: it stays continuous, and ends with the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_MEMORY_SECONDS = 15.0
"""Time over which the pace of the steps is averaged."""


@dataclass(frozen=True)
class Stretch:
    """How the steps of a run are spread over its schedule."""

    total_steps: int
    """Steps of the run, as far as is known."""
    since: int = 0
    """Step from which on they are spread evenly."""
    position: float = 0.0
    """Position of that step in the schedule as it was planned."""
    seconds: float = 0.0
    """Training time to keep to, over all sessions; 0 for no limit."""

    def at(self, step: int, planned: int) -> float:
        """Return the position of a step in a schedule of `planned` steps: the step itself, until the steps were counted anew."""
        return self.position + (planned - self.position) * (step - self.since) / max(1, self.total_steps - self.since)

    def over(self, step: int, n_left: int, planned: int) -> Stretch:
        """Return the same with another number of steps after this one."""
        return Stretch(step + n_left, step, self.at(step, planned), self.seconds)


def mean_pace(before: float | None, pace: float, seconds: float) -> float:
    """Return the mean seconds per step, in which the latest `seconds` of training count most."""
    return pace if before is None else before + (1 - math.exp(-seconds / _MEMORY_SECONDS)) * (pace - before)


def steps_in(seconds: float, *, step: float, assign: float, left_in_epoch: int, steps_per_epoch: int) -> int:
    """Return the number of steps that fit in the time that is left; at least one.

    Args:
        seconds: time left.
        step, assign: seconds of a step, and of the assignment before each epoch.
        left_in_epoch: steps left in this one, for which the assignment is done.
        steps_per_epoch: steps in each later epoch.
    """
    after = seconds - left_in_epoch * step
    if after <= assign:
        return max(1, min(left_in_epoch, int(seconds / step)))
    epochs, rest = divmod(after, assign + steps_per_epoch * step)
    return left_in_epoch + int(epochs) * steps_per_epoch + max(0, int((rest - assign) / step))
