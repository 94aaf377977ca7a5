"""Signs of life between ranks: if one ends or hangs, all stop within a set time, and say which it was.

A collective waits for every rank. When one dies, gloo raises an error that names a port, and NCCL waits for minutes. So each rank counts up
in the launcher's store once a second, watches the count of the next rank, and leaves there why it stopped.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from selfcluster import distributed
from selfcluster.errors import Interrupted, RankError
from selfcluster.formatting import visible

_BEAT_SECONDS = 1.0
_FIND_BEATS, _GRACE_BEATS = 6, 10
"""Signs of life that must be missing when a collective has failed; those after which a process that still waits is ended."""
_LOST = "has ended or does not answer; resume from the last checkpoint with --resume"


class Watch:
    """One rank's part in watching all.

    Args:
        store: torch.distributed's, that all ranks share, under a prefix of this group.
        rank, n_ranks: of this process.
        timeout: seconds without a sign of life after which a rank counts as lost.
        beat: seconds between signs of life.
        host: name of this machine.
    """

    def __init__(
        self, store: Any, rank: int, n_ranks: int, *, timeout: float, beat: float = _BEAT_SECONDS, host: str | None = None
    ) -> None:
        self.store, self.rank, self.n_ranks, self.timeout, self.beat = store, rank, n_ranks, timeout, beat
        self.host = host or socket.gethostname()
        self.who: dict[int, str] = {}
        store.set(f"who/{rank}", f"process {os.getpid()} on {self.host}")
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to give signs of life, in a thread, once every rank has said who it is."""
        self.who = {rank: self.store.get(f"who/{rank}").decode() for rank in range(self.n_ranks)}
        self._thread = threading.Thread(target=self._run, name="selfcluster-ranks", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Stop watching; the other ranks do not miss this one."""
        self._left.set()
        if self._thread is not None:
            self._thread.join(_GRACE_BEATS * self.beat)  # in the store when Python ends, it would abort the process
        with suppress(RuntimeError):  # the store has ended with rank 0
            self.store.set(f"left/{self.rank}", "")

    def blame(self, rank: int, message: str) -> str:
        """Record why the ranks stop, unless another reason has been recorded; return what is to be said by a rank other than the one to blame.

        Args:
            rank: the first rank that stops.
            message: its error, or "" if it ended without one.
        """
        first = json.dumps({"rank": rank, "message": message})
        return self._said_of(self.store.compare_set("cause", "", first))

    def cause(self, seconds: float) -> str | None:
        """Return why another rank stopped, waiting this long for it to be known; None if all of them are alive."""
        before, deadline = self._counts(), time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.store.check(["cause"]):
                return self._said_of(self.store.get("cause"))
            time.sleep(self.beat / 5)
        lost = [rank for rank, count in self._counts().items() if count == before[rank] and not self.store.check([f"left/{rank}"])]
        return self.blame(lost[0], "") if lost else None

    def told(self, error: BaseException) -> str | None:
        """Return why another rank stopped, if this error comes from that; otherwise tell the others of it."""
        try:
            if isinstance(error, RuntimeError) and (cause := self.cause(_FIND_BEATS * self.beat)) is not None:
                return cause
            self.blame(self.rank, " ".join(str(error).split()) or type(error).__name__)
        except RuntimeError:
            return self._said_without_store()
        return None

    def is_first(self) -> bool:
        """Return whether this is the first rank of its machine that says why it stops."""
        try:
            return self.store.compare_set(f"said/{self.host}", "", f"{self.rank}") == f"{self.rank}".encode()
        except RuntimeError:  # it has ended: with rank 0, unless a launcher keeps it
            lost_is_here = not _launcher_keeps_store() and self.who[0].endswith(f" on {self.host}")
            return os.environ.get("LOCAL_RANK", "0") == ("1" if lost_is_here else "0")

    def _counts(self) -> dict[int, int]:
        return {rank: self.store.add(f"beat/{rank}", 0) for rank in range(self.n_ranks) if rank != self.rank}

    def _said_of(self, cause: bytes) -> str:
        content = json.loads(cause)
        who = f"rank {content['rank']} ({self.who[content['rank']]})"
        return f"{who} stopped: {content['message']}" if content["message"] else f"{who} {_LOST}"

    def _said_without_store(self) -> str:
        return f"the launcher {_LOST}" if _launcher_keeps_store() else f"rank 0 ({self.who[0]}) {_LOST}"

    def _run(self) -> None:
        """Give signs of life, and end this process when another one is lost or has stopped."""
        following, count, silent, at = (self.rank + 1) % self.n_ranks, -1, 0.0, time.monotonic()
        while not self._left.wait(self.beat):
            # A process that was suspended must not blame the others for the time in which it looked at none of them.
            passed, at = min(time.monotonic() - at, 2 * self.beat), time.monotonic()
            try:
                self.store.add(f"beat/{self.rank}", 1)
                now = self.store.add(f"beat/{following}", 0)
                silent = silent + passed if now == count else 0.0
                count = now
                if silent > self.timeout:
                    if not self.store.check([f"left/{following}"]):
                        self._end(self.blame(following, ""))
                    silent = 0.0
                if self.store.check(["cause"]):
                    self._grace(self.store.get("cause"))
            except RuntimeError:
                self._grace(None)

    def _grace(self, cause: bytes | None) -> None:
        """End this process if it does not stop by itself, since it waits for a rank that has stopped."""
        if not self._left.wait(_GRACE_BEATS * self.beat):
            self._end(self._said_without_store() if cause is None else self._said_of(cause))

    def _end(self, message: str) -> None:
        if self.is_first():
            sys.stderr.write(visible(f"selfcluster: error: {message}\n"))
            sys.stderr.flush()
        os._exit(RankError.exit_status)  # the main thread is in a collective, which nothing can interrupt


def _launcher_keeps_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


_watch: Watch | None = None


def watch(timeout: float) -> None:
    """Begin to watch the other ranks, if a launcher has started several; collective."""
    global _watch
    if not distributed.is_on() or "MASTER_ADDR" not in os.environ:
        return
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
        timeout=timedelta(seconds=max(10.0, timeout)),
        wait_for_workers=False,
    )
    group = distributed.of_rank_0(os.urandom(8).hex())  # a store outlives the group, if the launcher keeps it
    of_group = dist.PrefixStore(f"selfcluster/{group}", store)  # type: ignore[attr-defined]
    _watch = Watch(of_group, distributed.rank(), distributed.n_ranks(), timeout=timeout)
    _watch.start()


@contextmanager
def stopping_together() -> Iterator[None]:
    """Tell the other ranks why this one stops, if an error is raised inside.

    Raises:
        RankError: another rank has stopped, in place of the error of the collective that waited for it.
    """
    global _watch
    _watch = None
    try:
        yield
    except Interrupted:  # on every rank, at the same step
        raise
    except BaseException as error:
        if _watch is not None and (cause := _watch.told(error)) is not None:
            raise RankError(cause) from None
        raise
    finally:
        if _watch is not None:
            _watch.leave()


def is_first_to_stop() -> bool:
    """Return whether this process says why it stops: the first one of its machine, so that several ranks do not say it at once."""
    return _watch is None or _watch.is_first()
