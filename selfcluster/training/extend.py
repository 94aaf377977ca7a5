"""A finished run made longer: training goes on from its last weights, on a new schedule of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from selfcluster.errors import ConfigError
from selfcluster.runs.checkpoint import CheckpointState
from selfcluster.settings.config import LENGTHS, Config, replace


def extended(stored: Config[Any], state: CheckpointState, wanted: Mapping[str, Any], *, steps_per_epoch: int) -> Config[Any]:
    """Return the config of a finished run with another length.

    Args:
        stored: config of the run.
        state: of its last checkpoint.
        wanted: one or more of epochs and max_steps (in all, with those that are done) and max_minutes (from now on).
        steps_per_epoch: of the run.
    Raises:
        ConfigError: the run has not finished, or is not made longer.
    """
    before, done = n_steps(stored, steps_per_epoch, state), state.step
    given = " ".join(f"--{name.replace('_', '-')}" for name in wanted)
    if done < before:
        raise ConfigError(
            f"cannot resume with {given}: the run has not finished (step {done:,} of {before:,}), and its schedule is fixed; resume it without, then make it longer"
        )
    longer = {"epochs": stored.optim.epochs, "max_steps": 0, "max_minutes": 0.0} | dict(wanted)
    if longer["max_minutes"]:
        in_time = done + int(60 * longer["max_minutes"] / max(state.seconds / max(1, done), 1e-9))
        longer["max_steps"] = min(in_time, longer["max_steps"] or in_time)
    if longer["max_steps"] and "epochs" not in wanted:
        longer["epochs"] = max(stored.optim.epochs, math.ceil(longer["max_steps"] / steps_per_epoch))
    config = replace(stored, {**longer, "extended_at": done})
    if n_steps(config, steps_per_epoch) <= done:
        raise ConfigError(
            f"cannot resume with {given}: the run has finished {done:,} steps ({done / steps_per_epoch:.3g} epochs) already; name more than that"
        )
    return config


def n_steps(config: Config[Any], steps_per_epoch: int, state: CheckpointState | None = None) -> int:
    """Return the number of steps of a run, in which it may have been stretched since it was planned."""
    if state is not None and state.stretch:
        return int(state.stretch["total_steps"])
    steps = config.optim.epochs * steps_per_epoch
    return min(steps, config.optim.max_steps) if config.optim.max_steps else steps


def lengths_of(stored: Config[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given settings that would change the length of a run."""
    return {name: settings[name] for name in LENGTHS if name in settings and settings[name] != getattr(stored.optim, name)}
