"""Randomness that is counted, not streamed.

Every draw is a pure function of a key such as (seed, epoch, index, occurrence, crop), so a run does not depend on the number
of workers, a resume needs no generator state, and one image's crops can be drawn again anywhere.

The numbers come from SplitMix64 (Steele, Lea and Flood, 2014): the key's parts are folded into 64 bits by its mixing function,
and draw j is the mix of that state advanced by j steps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _state(key: tuple[ArrayLike, ...]) -> NDArray[np.uint64]:
    """One state for each key, with a last axis of one for the draws."""
    parts = np.broadcast_arrays(*(np.asarray(part, dtype=np.int64)[..., None] for part in key))
    state = np.zeros(parts[0].shape, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _mix((state ^ part.astype(np.uint64)) + _STEP)
    return state


def uniform(*key: ArrayLike, n: int) -> NDArray[np.float64]:
    """n numbers in [0, 1) for each key.

    Args:
        key: whole numbers or arrays of them, broadcast against each other.
        n: draws per key.
    Returns:
        float64 of the key's broadcast shape with n appended; 53 random bits each.
    """
    with np.errstate(over="ignore"):
        bits = _mix(_state(key) + np.arange(1, n + 1, dtype=np.uint64) * _STEP)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed_from(*key: int) -> int:
    """One 63-bit seed that belongs to this key, for generators that want one."""
    return int(_state(key)[0] >> np.uint64(1))


def permutation(n: int, *key: int) -> NDArray[np.int64]:
    """An order of 0 .. n-1 that belongs to this key."""
    return np.random.default_rng(seed_from(*key)).permutation(n)


@contextlib.contextmanager
def forked(*key: int) -> Iterator[None]:
    """Inside, torch's draws on the CPU follow this key; outside, nothing has happened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(*key))
        yield


def reseed(*key: int) -> None:
    """Dropout and drop-path on this process now follow this key."""
    # What torch.manual_seed does, without asking for devices that are not in use, which takes longer than all else.
    seed = seed_from(*key)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
