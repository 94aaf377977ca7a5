"""Log handler of the command line: lines on stderr and, where stderr is a terminal, bars and what is being done."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress_bar import ProgressBar
from rich.text import Text

from selfcluster.formatting import duration, visible

if TYPE_CHECKING:
    from selfcluster.runs.log import Progress


class TerminalHandler(logging.Handler):
    """A handler that prints log messages, and draws a bar for the training and one for other work in progress.

    While there is nothing to count, the last message stays in sight with a clock, so that no work is silent.

    Args:
        quiet: print warnings only.
        verbose: print every message with the time since the start, instead of bars.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        super().__init__()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._verbose, self._began = verbose, time.monotonic()
        self._draws = self._console.is_terminal and not quiet and not verbose
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        """Tasks of the bars: training, other work, and waiting for what cannot be counted."""
        self.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose or self._draws else logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        progress = getattr(record, "progress", None)
        if progress is not None and self._draws:
            self._draw(progress)
        elif record.levelno >= logging.INFO or self._verbose:
            warning = "warning: " if record.levelno >= logging.WARNING else ""
            clock = f"{time.monotonic() - self._began:7.1f} s  " if self._verbose else ""
            self._console.print(visible(f"{clock}{warning}{record.getMessage()}"), markup=False)
            if self._draws:
                self._wait(record.getMessage())

    def _draw(self, progress: Progress) -> None:
        kind = "work" if progress.loss is None else "training"
        self._end("waiting")
        state = f"{progress.done:,}/{progress.total:,}  {progress.images_per_second:,.0f} images/s"
        if progress.loss is not None:
            state += f"  loss {progress.loss:.3f}  {progress.health}"
        bars = self._open_bars()
        if kind not in self._tasks:
            self._tasks[kind] = bars.add_task(progress.what, total=progress.total, state=state, seconds_left=None)
        shown: dict[str, Any] = {"state": state, "seconds_left": progress.seconds_left}
        bars.update(self._tasks[kind], description=progress.what, completed=progress.done, total=progress.total, **shown)
        if progress.done >= progress.total:
            if kind == "training":  # its bar stays on the screen
                del self._tasks[kind]
                self._stop_if_idle()
            else:
                self._end(kind)
                self._wait(progress.what)

    def begin(self, what: str) -> None:
        """Show what is being done before the first message, on a terminal."""
        if self._draws:
            self._wait(what)

    def make_room(self) -> None:
        """Make room for a line on stdout, which may be the same terminal."""
        self._end("waiting")

    def _wait(self, what: str) -> None:
        """Show what is being done, with a clock."""
        if self._tasks.keys() - {"waiting"}:
            return  # there is a bar that moves
        self._end("waiting")
        width = max(20, self._console.width - 20)
        short = what if len(what) <= width else f"{what[: width - 1]}…"
        self._tasks["waiting"] = self._open_bars().add_task(visible(short), total=None, state="", seconds_left=None)

    def _open_bars(self) -> Bars:
        if self._bars is None:
            columns = (SpinnerColumn("dots"), TextColumn("{task.description}", markup=False), _Bar(), _State(), _Clock())
            self._bars = Bars(*columns, console=self._console, redirect_stdout=False, redirect_stderr=False)
            self._bars.start()
        return self._bars

    def _end(self, kind: str) -> None:
        if kind in self._tasks and self._bars is not None:
            self._bars.remove_task(self._tasks.pop(kind))
            self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if not self._tasks:
            self._stop()

    def _stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def close(self) -> None:
        self.make_room()
        self._stop()
        super().close()


class _Bar(ProgressColumn):
    """A bar, for work that is counted."""

    def render(self, task: Task) -> ProgressBar | Text:
        return Text() if task.total is None else ProgressBar(total=task.total, completed=task.completed, width=12)


class _State(ProgressColumn):
    """Counts, speed, loss and health."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"])


class _Clock(ProgressColumn):
    """Time left, or the time since the work began where it is not counted."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text(duration(task.elapsed) if task.elapsed and task.elapsed > 2 else "")
        known = task.fields["seconds_left"]
        left = task.time_remaining if known is None else known
        return Text(f"{duration(left)} left" if left is not None else "")
