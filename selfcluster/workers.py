"""Worker processes: they leave signals to the process that starts them, and end with it.

Batch systems send SIGTERM to every process of a job. A worker that ended on it would take the training process with it before that has
written a checkpoint; so workers are started with these signals blocked.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
"""Signals that ask a run to stop."""
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Block these signals in processes that are started inside; those that come meanwhile reach this process afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ends_with_parent() -> Any:
    """Return a function for `worker_init_fn`, by which a worker is killed when this process ends, however it does."""
    return partial(_end_with, os.getpid())


def _end_with(parent: int, _: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1 != parent:  # it has ended before
            os._exit(1)
