"""The rows of metrics.jsonl: one JSON object a line, and the same to TensorBoard or Weights & Biases where they are asked for."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from selfcluster.errors import ConfigError
from selfcluster.runs.atomic import write_atomically
from selfcluster.settings.config import RunSettings

Sink = Callable[[int, dict[str, float]], object]
"""Takes the values of a step to another tool."""


def cut_back(metrics: Path, step: int, epoch: int | None = None) -> None:
    """Drop the rows written after a checkpoint.

    Args:
        metrics: the file.
        step: of the checkpoint.
        epoch: that begins with it, if one does: its rows are written again.
    """
    if metrics.is_file():
        kept = [line for line in metrics.read_text().splitlines(keepends=True) if _step_of(line) <= step]
        if epoch is not None:
            kept = [line for line in kept if json.loads(line)["epoch"] < epoch]
        write_atomically(metrics, "".join(kept).encode())


def read_rows(metrics: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.jsonl, oldest first."""
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # the run was cut off while it wrote this line


def check_extras(settings: RunSettings) -> None:
    """Raises ConfigError where the settings want a tool that is not installed."""
    for wanted, extra in ((settings.tensorboard, "tensorboard"), (settings.wandb, "wandb")):
        if wanted and importlib.util.find_spec(extra) is None:
            raise ConfigError(f"--{extra} needs the extra: pip install 'selfcluster[{extra}]'")


def sinks_of(settings: RunSettings, folder: Path) -> list[Sink]:
    """The tools that get every row, too."""
    return ([_tensorboard(folder)] if settings.tensorboard else []) + ([_wandb(settings.wandb, folder)] if settings.wandb else [])


def _tensorboard(folder: Path) -> Sink:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write


def _wandb(project: str, folder: Path) -> Sink:
    import wandb

    run = wandb.init(project=project, name=folder.name, dir=str(folder), resume="allow", id=folder.name)
    return lambda step, values: run.log(values, step=step)
