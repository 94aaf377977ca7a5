"""The loop: assign, predict, update, for every method alike."""

from __future__ import annotations

import itertools
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfcluster import distributed, optim
from selfcluster.data.loader import EpochPlan
from selfcluster.errors import Interrupted
from selfcluster.runs.log import Log
from selfcluster.training import time_limit
from selfcluster.training.extraction import extractor
from selfcluster.training.state import Training, save
from selfcluster.training.step import step
from selfcluster.workers import SIGNALS


def fit(t: Training, log: Log, folder: Path | None, *, stop_at: int | None = None) -> None:
    """Train the model, and write a checkpoint every few minutes and at the end.

    Args:
        t: from `build`, possibly restored.
        log: receives messages, metrics and progress.
        folder: run folder, for checkpoints; None writes none.
        stop_at: interrupt after this step, with a checkpoint, as a signal does.
    Raises:
        CollapseError, DivergenceError: see `Watch`.
        Interrupted: a signal interrupted the run; a checkpoint was written.
    """
    s, config = t.state, t.config
    if s.step >= t.total_steps:
        return
    pace = _Pace(t)
    with _signals() as asked:

        def leave_if_asked() -> None:
            """Interrupt extraction in a single process; several would have to agree at every batch."""
            if asked and not distributed.is_on():
                if folder is not None:
                    pace.note_checkpoint()
                    save(t, folder)
                raise Interrupted(asked[0], s.step, folder)

        def report(*progress: Any) -> None:
            log.working(*progress)
            leave_if_asked()

        t.loader.report = report

        for epoch in itertools.count(s.epoch):
            if s.step_in_epoch == 0:
                began = time.perf_counter()
                s.plan = t.method.begin_epoch(epoch, extractor(t, epoch, log, folder, leave_if_asked=leave_if_asked))
                optim.forget(t.optimizers, t.parameters_named(s.plan.reset))
                pace.report_plan(log, s.plan, epoch, time.perf_counter() - began)
            assert s.plan is not None  # `restore` refuses a checkpoint in the middle of an epoch without its plan
            for batch in t.loader.epoch(epoch, s.plan, start=s.step_in_epoch):
                done = step(t, batch)
                t.watch.see(done.out, done.targets, done.loss, s.step)
                lr = done.lr
                del done  # its tensors would otherwise stay in memory through the next step
                s.step, s.step_in_epoch = s.step + 1, s.step_in_epoch + 1
                is_last = s.step >= t.total_steps
                if s.step % config.run.log_steps == 0 or is_last:
                    pace.report(log, lr, epoch)
                must_leave = s.step == stop_at or _is_interrupted(asked, s.step)
                if folder is not None and (is_last or must_leave or pace.checkpoint_is_due()):
                    pace.note_checkpoint()
                    save(t, folder)
                if must_leave and not is_last:
                    raise Interrupted(asked[0] if asked else signal.SIGTERM, s.step, folder)
                if is_last:
                    break
            log.row(s.step, epoch, {"collapse/rankme": t.watch.rankme()})
            s.epoch, s.step_in_epoch = epoch + 1, 0
            if s.step >= t.total_steps:
                return


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM, SIGUSR1 and Ctrl-C, for the loop to stop at the next step; a second Ctrl-C raises immediately."""
    asked: list[int] = []

    def note(number: int, _: object) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, note) for number in SIGNALS}
    except ValueError:  # not the main thread, where the caller handles signals
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_interrupted(asked: list[int], step: int) -> bool:
    """Return whether any rank received a signal; ranks agree every 10 steps, so that all stop at the same one."""
    if distributed.is_on():
        return step % 10 == 0 and distributed.any_rank(bool(asked))
    return bool(asked)


class _Pace:
    """Speed, time left, and when the next checkpoint is due."""

    def __init__(self, t: Training) -> None:
        self.t = t
        self.started = self.row_at = self.saved_at = time.perf_counter()
        self.seconds_before, self.step_at_row, self.first_step = t.state.seconds, t.state.step, t.state.step
        self.assign_seconds, self.told_steps = 0.0, t.total_steps
        self.step_seconds: float | None = None

    def note_checkpoint(self) -> None:
        self.saved_at = time.perf_counter()
        self.t.state.seconds = self.seconds_before + self.saved_at - self.started

    def report_plan(self, log: Log, plan: EpochPlan, epoch: int, seconds: float) -> None:
        """Log the assignment before an epoch; its time is not counted as that of training steps."""
        for note in plan.notes:
            log.say(note)
        for warning in plan.warnings:
            log.say(warning, logging.WARNING)
        if plan.figures:
            log.row(self.t.state.step, epoch, {**plan.figures, "train/assign_seconds": seconds})
            log.assigned(epoch, plan.figures, seconds)
        self.row_at += seconds
        self.assign_seconds = seconds

    def report(self, log: Log, lr: float, epoch: int) -> None:
        t, now = self.t, time.perf_counter()
        health = t.watch.read()
        if t.watch.warned:
            log.say(t.watch.warned, logging.WARNING)
            t.watch.warned = None
        n_steps, passed = t.state.step - self.step_at_row, now - self.row_at
        values = {
            **health,
            "train/lr": lr,
            "train/images_per_second": n_steps * t.config.optim.batch / passed,
            "train/data_wait": t.loader.wait_seconds / passed,
        }
        t.loader.wait_seconds, self.row_at, self.step_at_row = 0.0, now, t.state.step
        if t.state.stretch.seconds and t.state.step < t.total_steps:
            self._keep_to_time(log, n_steps, passed)
        left = (now - self.started) / (t.state.step - self.first_step) * (t.total_steps - t.state.step)
        log.row(t.state.step, epoch, values)
        log.progress(t.state.step, t.total_steps, epoch, values, left)

    def _keep_to_time(self, log: Log, n_steps: int, seconds: float) -> None:
        """Count the steps that are left anew, so that the run ends in time; from times of the slowest rank, so that all come to the same number."""
        t, s = self.t, self.t.state
        seconds = distributed.largest(seconds)
        self.step_seconds = time_limit.mean_pace(self.step_seconds, seconds / n_steps, seconds)
        n_left = time_limit.steps_in(
            s.stretch.seconds - distributed.largest(self.seconds_before + time.perf_counter() - self.started),
            step=self.step_seconds,
            assign=distributed.largest(self.assign_seconds),
            left_in_epoch=t.method.steps_per_epoch - s.step_in_epoch,
            steps_per_epoch=t.method.steps_per_epoch,
        )
        most = t.config.optim.epochs * t.method.steps_per_epoch - s.step
        s.stretch = s.stretch.over(s.step, max(1, min(n_left, most)), t.method.total_steps)
        if not 0.8 < t.total_steps / self.told_steps < 1.25:
            log.say(
                f"max_minutes {t.config.optim.max_minutes:g}: {self.step_seconds:.2f} s per step, so the schedule now has {t.total_steps:,} steps"
            )
            self.told_steps = t.total_steps

    def checkpoint_is_due(self) -> bool:
        due = time.perf_counter() - self.saved_at > 60 * self.t.config.run.checkpoint_minutes
        # All ranks write at the same step, as soon as it is due on any of them.
        return self.t.state.step % 10 == 0 and distributed.any_rank(due) if distributed.is_on() else due
