"""Log handler of the command line: lines on stderr, and progress bars where stderr is a terminal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from selfcluster.formatting import visible

if TYPE_CHECKING:
    from selfcluster.runs.log import Progress


class TerminalHandler(logging.Handler):
    """A handler that prints log messages, and draws a bar for the training and one for other work in progress."""

    def __init__(self) -> None:
        super().__init__()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._tasks: dict[bool, TaskID] = {}
        """Tasks of the bar: True for training, False for other work."""
        self.setLevel(logging.DEBUG if self._console.is_terminal else logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        if progress is not None and self._console.is_terminal:
            self._draw(progress)
        elif record.levelno >= logging.INFO:
            warning = "warning: " if record.levelno >= logging.WARNING else ""
            self._console.print(visible(f"{warning}{record.getMessage()}"), markup=False)

    def _draw(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = Bar(
                TextColumn("{task.fields[what]}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]:,.0f} images/s{task.fields[loss]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self._console,
            )
            self._bar.start()
        is_training = progress.loss is not None
        shown: dict[str, Any] = {
            "what": progress.what,
            "speed": progress.images_per_second,
            "loss": f"  loss {progress.loss:.3f}" if is_training else "",
        }
        if is_training not in self._tasks:
            self._tasks[is_training] = self._bar.add_task("", total=progress.total, **shown)
        self._bar.update(self._tasks[is_training], completed=progress.done, total=progress.total, **shown)
        if progress.done >= progress.total:
            task = self._tasks.pop(is_training)
            if not is_training:  # the bar of a finished training stays on the screen
                self._bar.remove_task(task)
            if not self._tasks:
                self._stop_bar()

    def _stop_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def close(self) -> None:
        self._stop_bar()
        super().close()
