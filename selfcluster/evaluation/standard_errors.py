"""Standard errors: how much a metric would vary with another draw of test images.

They do not cover other training seeds, which usually differ by more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike


def mean_and_error(name: str, per_image: ArrayLike) -> Iterator[tuple[str, float]]:
    """Yield the mean over images as `name`, and its standard error as `name` with `_se`."""
    values = np.asarray(per_image, dtype=np.float64)
    yield name, float(values.mean())
    yield f"{name}_se", float(values.std() / len(values) ** 0.5)  # what the bootstrap converges to
