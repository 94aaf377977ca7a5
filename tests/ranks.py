"""Run a function on several gloo ranks.

The ranks are processes that live for the whole test session, since importing torch takes seconds. A function is sent by name, so it must be at
the top level of a module; its arguments and result are pickled. It must not change the process group.
"""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_pools: dict[int, _Pool] = {}


def on_ranks(function: Callable[..., Any], *args: Any, n: int = 2, timeout: float = 120) -> list[Any]:
    """Call function(*args) on each of n ranks, and return the results in the order of the ranks.

    Raises:
        RuntimeError: a rank raised (the message contains its traceback), or none answered in time; all ranks are then stopped.
    """
    if n not in _pools:
        _pools[n] = _Pool(n)
    try:
        return _pools[n].call(function, args, timeout)
    except BaseException:
        # A rank that waits in a collective for a failed one cannot be used again.
        _pools.pop(n).close()
        raise


class _Pool:
    def __init__(self, n: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.connections, self.processes = [], []
        for rank in range(n):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, n, f"file://{self.folder.name}/meet"), daemon=True)
            process.start()
            there.close()
            self.connections.append(here)
            self.processes.append(process)
        atexit.register(self.close)

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], timeout: float) -> list[Any]:
        for connection in self.connections:
            connection.send_bytes(pickle.dumps((function, args)))
        waiting, results = dict(zip(self.connections, range(len(self.connections)), strict=True)), {}
        while waiting:
            ready = multiprocessing.connection.wait(list(waiting), timeout)
            if not ready:
                raise RuntimeError(f"ranks {sorted(waiting.values())} did not answer in {timeout} s")
            for connection in ready:
                rank = waiting.pop(connection)
                try:
                    failed, results[rank] = pickle.loads(connection.recv_bytes())
                except EOFError:
                    raise RuntimeError(f"rank {rank} died") from None
                if failed:
                    raise RuntimeError(f"rank {rank} raised:\n{results[rank]}")
        return [results[rank] for rank in sorted(results)]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.folder.cleanup()
        atexit.unregister(self.close)


def _serve(connection: Connection, rank: int, n: int, meeting: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=n)
    while True:
        try:
            request = connection.recv_bytes()
        except EOFError:
            return
        try:
            function, args = pickle.loads(request)
            answer = (False, function(*args))
        except BaseException:
            answer = (True, traceback.format_exc())
        connection.send_bytes(pickle.dumps(answer))
