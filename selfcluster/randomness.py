"""Counter-based random numbers.

Every draw is a pure function of a key such as (seed, epoch, index, occurrence, crop), so results do not depend on the number of workers,
resuming needs no generator state, and the crops of an image can be drawn again anywhere.

The generator is SplitMix64 (Steele, Lea and Flood, 2014): its mixing function folds the parts of the key into 64 bits, and draw j is the mix
of that state advanced by j steps.
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
    """Return one state for each key, with a last axis of length 1 for the draws."""
    parts = np.broadcast_arrays(*(np.asarray(part, dtype=np.int64)[..., None] for part in key))
    state = np.zeros(parts[0].shape, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = _mix((state ^ part.astype(np.uint64)) + _STEP)
    return state


def uniform(*key: ArrayLike, n: int) -> NDArray[np.float64]:
    """Draw n numbers in [0, 1) for each key.

    Args:
        key: integers or arrays of integers, broadcast against each other.
        n: draws per key.
    Returns:
        float64 with 53 random bits, in the key's broadcast shape with n appended.
    """
    with np.errstate(over="ignore"):
        bits = _mix(_state(key) + np.arange(1, n + 1, dtype=np.uint64) * _STEP)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def seed_from(*key: int) -> int:
    """Return a 63-bit seed for this key, for other generators."""
    return int(_state(key)[0] >> np.uint64(1))


def permutation(n: int, *key: int) -> NDArray[np.int64]:
    """Draw a permutation of 0 .. n-1 for this key."""
    return np.random.default_rng(seed_from(*key)).permutation(n)


@contextlib.contextmanager
def forked(*key: int) -> Iterator[None]:
    """Seed torch's CPU generator with this key inside the block, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from(*key))
        yield


def reseed(*key: int) -> None:
    """Seed torch's generators, which dropout and drop-path use, with this key."""
    # As torch.manual_seed, but without querying devices that are not in use, which is slow.
    seed = seed_from(*key)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
