"""A few threads that share out work on images; decoding and resizing leave Python's lock to the others meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or something that does as it does."""


def in_threads(n: int) -> Each:
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
