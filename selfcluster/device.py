"""The machine: device, precision, threads and memory.

A training step frees and asks again for the same few hundred megabytes. glibc returns large blocks to the system each time, and the
system clears every page anew, which on a CPU can take as long as the arithmetic: hence `keep_freed_memory`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from selfcluster import distributed
from selfcluster.errors import ConfigError
from selfcluster.settings.config import Config


def start(device: str) -> torch.device:
    """This process's device; where a launcher has set WORLD_SIZE, the process group is initialized too.

    Raises:
        ConfigError: the device is unknown or not here.
    """
    ranks, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    kind = device if device != "auto" else _best_device()
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' is asked for, but torch sees no CUDA device; use --device cpu or install a CUDA build of torch")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is asked for, but torch sees none; use --device cpu")
    chosen = _parsed(kind, local_rank)
    if chosen.type == "cuda":
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"device {str(chosen)!r} is asked for, but torch sees {torch.cuda.device_count()} CUDA devices; use one of them"
            )
        torch.cuda.set_device(chosen)
    if chosen.type == "cpu":
        keep_freed_memory()
    if ranks > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return chosen


def _parsed(kind: str, local_rank: int) -> torch.device:
    try:
        chosen = torch.device("cuda", local_rank) if kind == "cuda" else torch.device(kind)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"unknown device {kind!r}; use auto, cpu, cuda, cuda:N or mps")
    return chosen


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


_SHARE = 0.9
"""Of a GPU's memory that a step may take; of a computer's, which others use too, half of what is free."""


def memory_limit(device: torch.device) -> int:
    """Bytes that training may take."""
    if device.type == "cuda":
        return int(_SHARE * torch.cuda.mem_get_info(device)[1])
    return peak_memory(device) + _free_memory() // 2


def _free_memory() -> int:
    file = Path("/proc/meminfo")
    if file.is_file():
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return 8 * 2**30  # nothing tells; as a laptop has


def peak_memory(device: torch.device) -> int:
    """Bytes at most so far: of the GPU where there is one, otherwise of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def precision_of(config: Config[Any], device: torch.device) -> torch.dtype:
    """The network's precision: auto is bf16 where the device multiplies it faster, which is CUDA from Ampere on and a CPU with AMX."""
    asked = config.run.precision
    if asked == "auto":
        has_amx = device.type == "cpu" and getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
        return (
            torch.bfloat16
            if has_amx or (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
            else torch.float32
        )
    return torch.bfloat16 if asked == "bf16" else torch.float32


def n_workers(config: Config[Any], device: torch.device, *, in_memory: bool) -> int:
    """Automatic: where a GPU trains, one a core of this rank's share, up to 8, for images that are not in memory.

    Where the CPU trains there is nothing to wait for: decoding and training want the same cores, and take them in turns.
    """
    if config.run.workers >= 0:
        return config.run.workers
    return 0 if in_memory or device.type == "cpu" else max(1, min(8, _cores_of_rank()))


def n_threads(config: Config[Any]) -> int:
    """Automatic: one a core of this rank's share."""
    return config.run.threads or max(1, _cores_of_rank())


def _cores_of_rank() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores // int(os.environ.get("LOCAL_WORLD_SIZE", distributed.n_ranks()))


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers for mallopt(3)."""


def keep_freed_memory() -> None:
    """From here on this process keeps what it frees; its largest extent stays what it was. Nothing happens where there is no glibc."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or something that does as it does."""


def in_threads(n: int) -> Map:
    """A `map` by n threads, each of which works alone, without torch's; `map` itself for one.

    Results come in order, and what a call raises is raised where its result is asked for.
    """
    if n <= 1:
        return map
    ours, all_here = torch.get_num_threads(), threading.Barrier(n)
    pool = ThreadPoolExecutor(n, "selfcluster")

    def work_alone(_: int) -> None:
        torch.get_num_threads()  # or torch would set the thread up at its first work, and forget what comes next
        torch.set_num_threads(1)
        all_here.wait()

    list(pool.map(work_alone, range(n)))
    torch.set_num_threads(ours)  # what a thread sets for itself is also what threads that begin later start from
    return pool.map
