"""What a run says: one bar on a terminal, plain lines elsewhere, JSON lines always."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from pathlib import Path
from typing import TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from selfcluster import distributed
from selfcluster.errors import ConfigError
from selfcluster.formatting import duration
from selfcluster.runs.atomic import write_atomically
from selfcluster.settings.config import RunSettings

Batch = TypeVar("Batch", bound=Sized)

Sink = Callable[[int, dict[str, float]], object]
"""Takes the values of a step to another tool."""


def say(message: str) -> None:
    """One line to the user, from rank 0, where there is no run folder yet."""
    if distributed.rank() == 0:
        Console(file=sys.stderr, highlight=False, soft_wrap=True).print(message, markup=False)


class Log:
    """Speaks for rank 0; on every other rank all of this does nothing.

    Args:
        folder: the run's; `log.txt` and `metrics.jsonl` stand in it. None where nothing is to be kept.
        settings: how often, and to which other tools.
    """

    def __init__(self, folder: Path | None, settings: RunSettings) -> None:
        self.speaks = distributed.rank() == 0
        self._settings = settings
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._work: TaskID | None = None
        self._last_line = 0.0
        self._sinks: list[Sink] = []
        self._text: TextIO | None = None
        self._rows: TextIO | None = None
        if self.speaks and folder is not None:
            self._text = (folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace")
            self._rows = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            if settings.tensorboard:
                self._sinks.append(_tensorboard(folder))
            if settings.wandb:
                self._sinks.append(_wandb(settings.wandb, folder))

    def say(self, message: str) -> None:
        """One line, to the user and to log.txt."""
        if not self.speaks:
            return
        self._console.print(message, markup=False)
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

    def start(self, step: int, total_steps: int) -> None:
        """Training begins: a bar where there is a terminal."""
        if self.speaks and self._console.is_terminal:
            self._progress = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]:,.0f} images/s  loss {task.fields[loss]:.3f}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=total_steps, completed=step, epoch=0, speed=0.0, loss=float("nan"))
            self._progress.start()

    def progress(self, step: int, total_steps: int, epoch: int, values: dict[str, float], seconds_left: float) -> None:
        """Moves the bar, or prints a plain line every few seconds."""
        speed, loss = values["train/images_per_second"], values["train/loss"]
        if self._progress is not None:
            self._progress.update(self._task, completed=step, epoch=epoch, speed=speed, loss=loss)
        entropy = f"entropy {values['collapse/code_entropy']:.2f} ln K  " if "collapse/code_entropy" in values else ""
        self._line(
            f"step {step}/{total_steps}  epoch {epoch}  loss {loss:.3f}  {speed:,.0f} images/s  "
            f"{entropy}used {values['collapse/prototypes_used']:.0f}  {duration(seconds_left)} left",
            at_once=step == total_steps,
        )

    def working(self, what: str, done: int, total: int, speed: float) -> None:
        """Work between epochs goes on: moves a bar of its own, or prints a plain line every few seconds.

        Args:
            what: such as "extracting features".
            done, total: images.
            speed: images a second, on this rank.
        """
        if self._progress is not None:
            if self._work is None:
                self._work = self._progress.add_task("", total=total, epoch=what, speed=speed, loss=float("nan"))
            self._progress.update(self._work, completed=done, total=total, epoch=what, speed=speed)
            if done >= total:
                self._progress.remove_task(self._work)
                self._work = None
        self._line(f"{what}: {done:,} of {total:,} images, {speed:,.0f} images/s")

    def assigned(self, epoch: int, figures: Mapping[str, float], seconds: float) -> None:
        """One line about the clusters of an epoch."""
        nmi = f"NMI with the last {figures['cluster/nmi_previous']:.2f}, " if "cluster/nmi_previous" in figures else ""
        line = (
            f"epoch {epoch}  clusters: {nmi}largest {figures['cluster/largest_share']:.1%}, sizes {figures['cluster/size_smallest']:.0f} to "
            f"{figures['cluster/size_largest']:.0f}, {figures['cluster/n_empty']:.0f} empty; {seconds:.1f} s"
        )
        self._line(line)

    def _line(self, line: str, *, at_once: bool = False) -> None:
        """Printed, if the last one is long enough ago; where there is a bar, only kept in log.txt."""
        now = time.monotonic()
        if now - self._last_line < self._settings.log_seconds and not at_once:
            return
        self._last_line = now
        if self._progress is None:
            self.say(line)
        else:
            self._keep(line)

    def close(self) -> None:
        """The bar is gone and the files are closed."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        for file in (self._text, self._rows):
            if file is not None:
                file.close()
        self._text = self._rows = None


def telling(batches: Iterable[Batch], what: str, total: int, *, settings: RunSettings, done: int = 0) -> Iterator[Batch]:
    """The batches, while the user is told how far they are.

    Args:
        batches: each as long as it has images.
        what: such as "embedding".
        total: images.
        settings: how often.
        done: images that were done before.
    """
    log, began, before = Log(None, settings), time.monotonic(), done
    try:
        for batch in batches:
            yield batch
            done += len(batch)
            log.working(what, done, total, (done - before) / max(time.monotonic() - began, 1e-9))
    finally:
        log.close()


def cut_back(metrics: Path, step: int, epoch: int | None = None) -> None:
    """metrics.jsonl holds no row after this step, as when the checkpoint of this step was written.

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


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return float("inf")  # the run was cut off while it wrote this line


def read_rows(metrics: Path) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, oldest first."""
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def check_extras(settings: RunSettings) -> None:
    """Raises ConfigError where the settings want a tool that is not installed."""
    for wanted, extra in ((settings.tensorboard, "tensorboard"), (settings.wandb, "wandb")):
        if wanted and importlib.util.find_spec(extra) is None:
            raise ConfigError(f"--{extra} needs the extra: pip install 'selfcluster[{extra}]'")


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
