"""What a run says and writes: messages through the logger `selfcluster` and into log.txt, figures into metrics.jsonl.

Progress goes through the logger as well: each record carries a `Progress`, at level INFO every few seconds and at DEBUG in between, so
that a handler may draw a bar of them (see `terminal`) or print a line now and then.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeVar

from selfcluster import distributed
from selfcluster.distributed import logger
from selfcluster.formatting import duration
from selfcluster.runs.metrics import Sink, sinks_of
from selfcluster.settings.config import RunSettings

Batch = TypeVar("Batch", bound=Sized)


@dataclass(frozen=True)
class Progress:
    """How far some work is."""

    what: str
    """Such as "extracting features", or the epoch."""
    done: int
    total: int
    """Steps of training, or images."""
    images_per_second: float
    loss: float | None = None
    """Of training."""


class Log:
    """A run's messages, progress and figures; on ranks other than 0 nothing is said or written.

    Args:
        folder: the run's; `log.txt` and `metrics.jsonl` stand in it. None where nothing is to be kept.
        settings: how often, and to which other tools.
    """

    def __init__(self, folder: Path | None, settings: RunSettings) -> None:
        self._settings = settings
        self._last_line = 0.0
        self._sinks: list[Sink] = []
        self._text: TextIO | None = None
        self._rows: TextIO | None = None
        if folder is not None and distributed.rank() == 0:
            self._text = (folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace")
            self._rows = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._sinks = sinks_of(settings, folder)

    def say(self, message: str, level: int = logging.INFO) -> None:
        """One line, to the user and to log.txt."""
        logger.log(level, message)
        self._keep(message)

    def _keep(self, message: str) -> None:
        if self._text is not None:
            self._text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
            self._text.flush()

    def row(self, step: int, epoch: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the same to TensorBoard or W&B."""
        if self._rows is not None:
            self._rows.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
            self._rows.flush()
        for sink in self._sinks:
            sink(step, values)

    def progress(self, step: int, total_steps: int, epoch: int, values: dict[str, float], seconds_left: float) -> None:
        """How far training is, and its signs."""
        speed, loss = values["train/images_per_second"], values["train/loss"]
        entropy = f"entropy {values['collapse/code_entropy']:.2f} ln K  " if "collapse/code_entropy" in values else ""
        line = (
            f"step {step}/{total_steps}  epoch {epoch}  loss {loss:.3f}  {speed:,.0f} images/s  "
            f"{entropy}used {values['collapse/prototypes_used']:.0f}  {duration(seconds_left)} left"
        )
        self._line(line, Progress(f"epoch {epoch}", step, total_steps, speed, loss), at_once=step == total_steps)

    def working(self, what: str, done: int, total: int, speed: float) -> None:
        """How far other work is.

        Args:
            what: such as "extracting features".
            done, total: images.
            speed: images a second, on this rank.
        """
        self._line(f"{what}: {done:,} of {total:,} images, {speed:,.0f} images/s", Progress(what, done, total, speed))

    def assigned(self, epoch: int, figures: Mapping[str, float], seconds: float) -> None:
        """One line about the clusters of an epoch."""
        nmi = f"NMI with the last {figures['cluster/nmi_previous']:.2f}, " if "cluster/nmi_previous" in figures else ""
        line = (
            f"epoch {epoch}  clusters: {nmi}largest {figures['cluster/largest_share']:.1%}, sizes {figures['cluster/size_smallest']:.0f} to "
            f"{figures['cluster/size_largest']:.0f}, {figures['cluster/n_empty']:.0f} empty; {seconds:.1f} s"
        )
        self._line(line, None)

    def _line(self, line: str, progress: Progress | None, *, at_once: bool = False) -> None:
        """Said and kept if the last one is long enough ago; in between for those who draw a bar."""
        now = time.monotonic()
        is_due = now - self._last_line >= self._settings.log_seconds or at_once
        logger.log(logging.INFO if is_due else logging.DEBUG, line, extra={"progress": progress} if progress else {})
        if is_due:
            self._last_line = now
            self._keep(line)

    def close(self) -> None:
        """The files are closed."""
        for file in (self._text, self._rows):
            if file is not None:
                file.close()
        self._text = self._rows = None


def with_progress(batches: Iterable[Batch], what: str, total: int, *, settings: RunSettings, done: int = 0) -> Iterator[Batch]:
    """The batches, while progress is reported.

    Args:
        batches: each as long as it has images.
        what: such as "embedding".
        total: images.
        settings: how often.
        done: images that were done before.
    """
    log, began, before = Log(None, settings), time.monotonic(), done
    for batch in batches:
        yield batch
        done += len(batch)
        log.working(what, done, total, (done - before) / max(time.monotonic() - began, 1e-9))
