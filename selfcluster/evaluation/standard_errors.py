"""Standard errors by bootstrap: how much a figure would vary with another draw of test images.

Of n images, n are drawn with replacement, many times over, and the figure is computed of each draw; the spread of these figures
is the standard error. It speaks of the test images alone: a training with another seed differs by more than that.

Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import ArrayLike, NDArray

from selfcluster import randomness

_DRAWS = 1000
_MEANS, _TABLES = 0xB0, 0xB1
"""Keep the draws of one seed apart."""


def mean_and_error(name: str, per_image: ArrayLike, *, seed: int = 0) -> Iterator[tuple[str, float]]:
    """Yields the mean over images as `name`, and its standard error as `name` with `_se`."""
    values = np.asarray(per_image, dtype=np.float64)
    yield name, float(values.mean())
    yield f"{name}_se", float(standard_errors(values[:, None], seed=seed)[0])


def standard_errors(per_image: Float[np.ndarray, "n m"], *, draws: int = _DRAWS, seed: int = 0) -> Float[np.ndarray, " m"]:
    """Standard error of the mean of each column.

    Args:
        per_image: a value for each image and figure, such as whether it was classified rightly.
        draws: of n images each; the error is itself known to a share of (2 * draws)^-0.5.
        seed: of the draws.
    """
    n, generator = len(per_image), np.random.default_rng(randomness.seed_from(seed, _MEANS))
    means = np.empty((draws, per_image.shape[1]))
    for draw in range(draws):
        times = np.bincount(generator.integers(n, size=n), minlength=n)
        means[draw] = times @ per_image / n
    return means.std(axis=0, ddof=1)


def resampled_tables(
    left: Int64[np.ndarray, " n"], right: Int64[np.ndarray, " n"], *, draws: int, seed: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Yields, for draws of n images with replacement, how many are in each part of one partition (row) and of the other (column).

    For figures of two partitions, which are no means over images; only these counts matter to them, so only they are drawn.
    """
    (_, rows), (_, columns) = (np.unique(part, return_inverse=True) for part in (left, right))
    counts = np.zeros((rows.max() + 1, columns.max() + 1), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    generator = np.random.default_rng(randomness.seed_from(seed, _TABLES))
    for drawn in generator.multinomial(len(left), counts.flatten() / len(left), size=draws):
        yield drawn.reshape(counts.shape)
