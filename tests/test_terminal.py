"""Log output on a terminal and in a pipe."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfcluster.distributed import logger
from selfcluster.runs.log import Progress
from selfcluster.terminal import TerminalHandler
from tests import tiny


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _handled(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, **how: bool) -> TerminalHandler:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("sys.stderr", stream)
    handler = TerminalHandler(**how)
    logger.addHandler(handler)
    logger.setLevel(handler.level)
    return handler


@pytest.fixture
def as_before() -> Iterator[None]:
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


def _work(n: int) -> None:
    for done in range(1, n + 1):
        logger.debug("step", extra={"progress": Progress("epoch 0", done, n, 100.0, 1.5)})
    logger.info("a message")
    logger.warning("a [bold]warning[/bold]")


def test_in_a_pipe_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch, as_before: None) -> None:
    stream = io.StringIO()
    _handled(monkeypatch, stream)
    _work(5)
    logger.info("step 5/5", extra={"progress": Progress("epoch 0", 5, 5, 100.0, 1.5)})
    assert stream.getvalue() == "a message\nwarning: a [bold]warning[/bold]\nstep 5/5\n"


def test_on_a_terminal_progress_is_a_bar_that_ends(monkeypatch: pytest.MonkeyPatch, as_before: None) -> None:
    stream = _Terminal()
    handler = _handled(monkeypatch, stream)
    logger.debug("half", extra={"progress": Progress("epoch 3", 1, 2, 100.0, 1.5, "used 7  rank 12", 70.0)})
    logger.debug("extracting", extra={"progress": Progress("extracting features", 5, 5, 10.0)})
    assert handler._tasks.keys() == {"training"}
    logger.info("done", extra={"progress": Progress("epoch 3", 2, 2, 100.0, 1.25, "used 8  rank 12", 0.0)})
    assert handler._bars is None
    said = stream.getvalue()
    assert "epoch 3" in said
    assert "loss 1.250  used 8  rank 12" in said
    assert "done" not in said
    handler.close()


def test_a_bar_is_gone_after_an_error(monkeypatch: pytest.MonkeyPatch, as_before: None) -> None:
    handler = _handled(monkeypatch, _Terminal())
    logger.debug("half", extra={"progress": Progress("epoch 3", 1, 2, 100.0, 1.5)})
    handler.close()
    assert handler._bars is None


def test_what_cannot_be_counted_stays_in_sight(monkeypatch: pytest.MonkeyPatch, as_before: None) -> None:
    stream = _Terminal()
    handler = _handled(monkeypatch, stream)
    logger.info("clustering")
    assert handler._tasks.keys() == {"waiting"}
    logger.debug("embedding", extra={"progress": Progress("embedding", 2, 2, 100.0)})
    assert handler._tasks.keys() == {"waiting"}  # for what comes after it
    logger.info("building a page")
    assert len(handler._bars.tasks) == 1
    handler.close()
    assert handler._bars is None
    assert "building a page" in stream.getvalue()


def test_quiet_prints_warnings_alone_and_verbose_every_line_with_the_time(monkeypatch: pytest.MonkeyPatch, as_before: None) -> None:
    stream = _Terminal()
    _handled(monkeypatch, stream, quiet=True)
    _work(2)
    assert stream.getvalue() == "warning: a [bold]warning[/bold]\n"
    logger.handlers.clear()
    stream = io.StringIO()
    _handled(monkeypatch, stream, verbose=True)
    _work(2)
    lines = stream.getvalue().splitlines()
    assert [line.split(" s  ")[1] for line in lines] == ["step", "step", "a message", "warning: a [bold]warning[/bold]"]


def test_the_package_is_silent_unless_somebody_listens(tmp_path: Path) -> None:
    script = (
        "import sys, selfcluster as sc\n"
        "from tests import tiny\n"
        "sc.train(tiny.images(), out=sys.argv[1], **{**tiny.SETTINGS, 'epochs': 1}).cluster(tiny.images(), k=3)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_progress_is_said_seldom_and_told_often(caplog: pytest.LogCaptureFixture) -> None:
    from selfcluster.runs.log import Log

    caplog.set_level(logging.DEBUG, logger="selfcluster")
    log = Log(None, tiny.config().run)
    for done in range(5):
        log.working("embedding", done, 10, 1.0)
    assert [record.levelno for record in caplog.records] == [logging.INFO] + 4 * [logging.DEBUG]
    assert [record.progress.done for record in caplog.records] == list(range(5))
