"""Messages and progress of a run, through the logger `selfcluster` and into log.txt.

Each progress record carries a `Progress`. It has level INFO every few seconds and DEBUG in between, so that a handler can draw a bar
from all of them (see `terminal`) or print only a line now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from selfcluster import distributed
from selfcluster.distributed import logger
from selfcluster.formatting import duration
from selfcluster.runs.atomic import append
from selfcluster.runs.metrics import MetricsWriter
from selfcluster.settings.config import RunSettings

LINE_SECONDS = 5.0
"""Least time between two lines of progress."""

Batch = TypeVar("Batch", bound=Sized)


@dataclass(frozen=True)
class Progress:
    """State of some work in progress."""

    what: str
    """Such as "extracting features", or the epoch."""
    done: int
    total: int
    """Steps of training, or images."""
    images_per_second: float
    loss: float | None = None
    """Training loss; None for other work."""
    health: str = ""
    """Health metrics of the training, in words."""
    seconds_left: float | None = None
    """None if it is not known better than from the images so far."""


class Log:
    """Messages, progress and metrics of a run; only rank 0 logs and writes.

    Args:
        folder: the run folder, for log.txt and metrics.jsonl; None to write no files.
        settings: the tools to send metrics to.
    """

    def __init__(self, folder: Path | None, settings: RunSettings) -> None:
        self._last_line = 0.0
        self._rank = ""
        self._text: TextIO | None = None
        self._metrics: MetricsWriter | None = None
        if folder is not None and distributed.rank() == 0:
            self._text = (folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace")
            self._metrics = MetricsWriter(folder, settings)

    def say(self, message: str, level: int = logging.INFO) -> None:
        """Log a message, and write it to log.txt."""
        logger.log(level, message)
        self._write(message)

    def row(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """Write a row of metrics."""
        if "collapse/rankme" in values:
            self._rank = f"  rank {values['collapse/rankme']:.0f}"
        if self._metrics is not None:
            self._metrics.write(step, epoch, values)

    def progress(self, step: int, total_steps: int, epoch: int, values: dict[str, float], seconds_left: float) -> None:
        """Report the progress of training."""
        speed, loss = values["train/images_per_second"], values["train/loss"]
        entropy = f"entropy {values['collapse/code_entropy']:.2f} ln K  " if "collapse/code_entropy" in values else ""
        health = f"{entropy}used {values['collapse/prototypes_used']:.0f}{self._rank}"
        line = f"step {step}/{total_steps}  epoch {epoch}  loss {loss:.3f}  {speed:,.0f} images/s  {health}  {duration(seconds_left)} left"
        self._line(line, Progress(f"epoch {epoch}", step, total_steps, speed, loss, health, seconds_left), is_last=step == total_steps)

    def working(self, what: str, done: int, total: int, speed: float) -> None:
        """Report the progress of other work.

        Args:
            what: such as "extracting features".
            done, total: images.
            speed: images per second, on this rank.
        """
        self._line(f"{what}: {done:,} of {total:,} images, {speed:,.0f} images/s", Progress(what, done, total, speed))

    def assigned(self, epoch: int, figures: Mapping[str, float], seconds: float) -> None:
        """Report the clusters of an epoch."""
        nmi = f"NMI with the previous {figures['cluster/nmi_previous']:.2f}, " if "cluster/nmi_previous" in figures else ""
        line = (
            f"epoch {epoch}  clusters: {nmi}largest {figures['cluster/largest_share']:.1%}, sizes {figures['cluster/size_smallest']:.0f} to "
            f"{figures['cluster/size_largest']:.0f}, {figures['cluster/n_empty']:.0f} empty; {seconds:.1f} s"
        )
        self._line(line)

    def _line(self, line: str, progress: Progress | None = None, *, is_last: bool = False) -> None:
        now = time.monotonic()
        is_due = now - self._last_line >= LINE_SECONDS or is_last
        logger.log(logging.INFO if is_due else logging.DEBUG, line, extra={"progress": progress} if progress else {})
        if is_due:
            self._last_line = now
            self._write(line)

    def _write(self, message: str) -> None:
        if self._text is not None and not self._text.closed:
            append(self._text, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def close(self) -> None:
        """Close the files."""
        for file in (self._text, self._metrics):
            if file is not None:
                file.close()
        self._text = self._metrics = None


def with_progress(batches: Iterable[Batch], what: str, total: int, *, n_done: int = 0) -> Iterator[Batch]:
    """Yield the batches and report progress.

    Args:
        batches: of one row per image.
        what: such as "embedding".
        total: images.
        n_done: images done earlier.
    """
    log, started, done = Log(None, RunSettings()), time.monotonic(), n_done
    for batch in batches:
        yield batch
        done += len(batch)
        log.working(what, done, total, (done - n_done) / max(time.monotonic() - started, 1e-9))
