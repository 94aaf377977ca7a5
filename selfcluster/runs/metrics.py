"""metrics.jsonl: one JSON object per line, also sent to TensorBoard or Weights & Biases on request."""

from __future__ import annotations

import contextlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from selfcluster.errors import ConfigError
from selfcluster.runs.atomic import append, write_atomically
from selfcluster.settings.config import RunSettings

Sink = Callable[[int, dict[str, float]], object]
"""Sends the values of a step to another tool."""


class MetricsWriter:
    """Appends rows to metrics.jsonl, and sends them to the tools that the settings name.

    Args:
        folder: the run folder.
        settings: the tools to send them to.
    """

    def __init__(self, folder: Path, settings: RunSettings) -> None:
        self._file = (folder / "metrics.jsonl").open("a", encoding="utf-8")
        self._sinks: list[Sink] = []
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._file.close)
        if settings.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(folder)
            self._closing.callback(writer.close)

            def add_scalars(step: int, values: dict[str, float]) -> None:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)

            self._sinks.append(add_scalars)
        if settings.wandb:
            import wandb

            run = wandb.init(project=settings.wandb, name=folder.name, dir=str(folder), resume="allow", id=folder.name)
            self._closing.callback(run.finish)
            self._sinks.append(lambda step, values: run.log(values, step=step))

    def write(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Write one row."""
        append(self._file, json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
        for sink in self._sinks:
            sink(step, values)

    def close(self) -> None:
        """Close the file, and finish the TensorBoard and Weights & Biases runs."""
        self._closing.close()


def read_rows(metrics: Path) -> list[dict[str, float]]:
    """Return the rows of a metrics.jsonl, oldest first."""
    rows = []
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        with contextlib.suppress(ValueError):  # the last line is incomplete if the run was killed while writing it
            rows.append(json.loads(line))
    return rows


def cut_back(metrics: Path, step: int, epoch: int | None = None) -> None:
    """Drop the rows written after a checkpoint.

    Args:
        metrics: the metrics.jsonl.
        step: step of the checkpoint; later rows are dropped.
        epoch: the epoch that begins with the checkpoint, if one does: its rows will be written again, and are dropped too.
    """
    if metrics.is_file():
        kept = [row for row in read_rows(metrics) if row["step"] <= step and (epoch is None or row["epoch"] < epoch)]
        write_atomically(metrics, "".join(json.dumps(row) + "\n" for row in kept).encode())


def check_extras(settings: RunSettings) -> None:
    """Check that the tools that the settings name are installed; raise ConfigError if not."""
    for wanted, extra in ((settings.tensorboard, "tensorboard"), (settings.wandb, "wandb")):
        if wanted and importlib.util.find_spec(extra) is None:
            raise ConfigError(f"--{extra} needs an extra: pip install 'selfcluster[{extra}]'")
