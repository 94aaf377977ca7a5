"""The machine: device, precision, threads and memory.

A training step frees and allocates the same few hundred megabytes again and again. glibc returns large blocks to the system each time, and the
system clears every page again, which can take as long as the arithmetic; `keep_freed_memory` avoids it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from selfcluster import distributed
from selfcluster.errors import ConfigError
from selfcluster.settings.config import Config


def start(device: str) -> torch.device:
    """Return this process's device, and initialize the process group if a launcher has set WORLD_SIZE.

    Raises:
        ConfigError: the device is unknown or not available.
    """
    ranks, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    kind = device
    if device == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was requested, but torch finds no CUDA device; use --device cpu or install a CUDA build of torch")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' was requested, but torch finds no MPS device; use --device cpu")
    chosen = _parsed(kind, local_rank)
    if chosen.type == "cuda":
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"device {str(chosen)!r} was requested, but torch finds {torch.cuda.device_count()} CUDA device(s); use one of them"
            )
        torch.cuda.set_device(chosen)
    if chosen.type == "cpu":
        keep_freed_memory()
    if ranks > 1 and not dist.is_initialized():
        _meet("nccl" if chosen.type == "cuda" else "gloo")
    return chosen


def _meet(backend: str) -> None:
    """Initialize the process group.

    On one machine torchrun keeps one store for all its restarts, in which gloo would find the addresses of processes that have ended, and wait
    for them. Several launchers count restarts differently, and can be told to begin a store for each (docs/howto/many_machines.md).
    """
    store, rank, n_ranks = next(iter(dist.rendezvous("env://")))  # type: ignore[attr-defined]
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=rank, world_size=n_ranks)


def _parsed(kind: str, local_rank: int) -> torch.device:
    try:
        chosen = torch.device("cuda", local_rank) if kind == "cuda" else torch.device(kind)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device {kind!r}; use auto, cpu, cuda, cuda:N or mps")
    return chosen


_SHARE = 0.9
"""Share of a GPU's memory that training may use. Other programs use a computer's memory too, so there it is half of what is free."""


def memory_limit(device: torch.device) -> int:
    """Return the bytes that training may use."""
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[1])
    free, file = 8 * 2**30, Path("/proc/meminfo")  # where the system does not say, assume a laptop
    if file.is_file():
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    return peak_memory(device) + free // 2


def peak_memory(device: torch.device) -> int:
    """Return the peak memory so far in bytes, of a GPU or else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not available on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def precision_of(config: Config[Any], device: torch.device) -> torch.dtype:
    """Return the network's precision; auto is bf16 on devices that multiply it faster: CUDA since Ampere, and a CPU with AMX."""
    is_fast = config.run.precision == "bf16"
    if config.run.precision == "auto":
        has_amx = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        is_fast = has_amx or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.bfloat16 if is_fast else torch.float32


def n_workers(config: Config[Any], device: torch.device, *, in_memory: bool) -> int:
    """Return the number of workers; by default one per core of this rank, up to 8, if a GPU trains on images that are not in memory.

    On a CPU, decoding and training would compete for the same cores, so by default there are none.
    """
    if config.run.workers >= 0:
        return config.run.workers
    return 0 if in_memory or device.type == "cpu" else max(1, min(8, _cores_of_rank()))


def n_threads(config: Config[Any]) -> int:
    """Return the number of threads; by default one per core of this rank."""
    return config.run.threads or max(1, _cores_of_rank())


def _cores_of_rank() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // int(os.environ.get("LOCAL_WORLD_SIZE", distributed.n_ranks()))


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's constants for mallopt(3)."""


def keep_freed_memory() -> None:
    """Make this process keep the memory that it frees; its peak does not change. Without glibc, do nothing."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


Item = TypeVar("Item")
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or a function with the same interface."""


def in_threads(n: int) -> Map:
    """Return a `map` that uses n threads, each without torch's own threads; `map` itself for n = 1.

    Results come in order; an exception is raised when the result of its call is requested.
    """
    if n <= 1:
        return map
    n_before, all_started = torch.get_num_threads(), threading.Barrier(n)
    pool = ThreadPoolExecutor(n, "selfcluster")

    def initialize(_: int) -> None:
        torch.get_num_threads()  # otherwise torch initializes the thread later, and overrides the next line
        torch.set_num_threads(1)
        all_started.wait()

    list(pool.map(initialize, range(n)))
    torch.set_num_threads(n_before)  # a thread's setting also becomes the default of later threads
    return pool.map


def ahead(items: Iterator[Item], n: int = 2) -> Generator[Item, None, None]:
    """Iterate in a thread, which makes up to n items before they are asked for; an exception is raised when its item is."""
    end: Any = object()
    thread = ThreadPoolExecutor(1, "selfcluster-ahead")
    try:
        asked = deque(thread.submit(next, items, end) for _ in range(n))
        while (item := asked.popleft().result()) is not end:
            asked.append(thread.submit(next, items, end))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
