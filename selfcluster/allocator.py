"""Freed memory is kept for the next step.

A step frees and asks again for the same few hundred megabytes. glibc gives large blocks back to the system each time, and the
system clears every page anew: on a CPU that can take as long as the arithmetic.
"""

from __future__ import annotations

import ctypes
import sys

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
