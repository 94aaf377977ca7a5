"""What a run trains and is tested on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfcluster.data.readers.images import Images
from selfcluster.data.splits import hold_out
from selfcluster.settings.config import DataSettings


@dataclass(frozen=True)
class Data:
    """Images to train on, with test images if the data have a test split."""

    name: str
    """Short name, used for the run folder."""
    where: str
    """What the user passed, as an absolute path if it is one; kept by the run. Empty for an array."""
    images: Images
    test: Images | None = None
    test_where: str = ""
    """What to pass as IMAGES to open the test split alone; empty if there is no such path."""
    notes: tuple[str, ...] = ()
    """Lines for the user about what was found."""

    def trained_on(self, settings: DataSettings, seed: int) -> NDArray[np.int64]:
        """Return the indices of the images to train on: all, or all but the test share, stratified by label if there are labels."""
        if not settings.test_share:
            return np.arange(len(self.images))
        train, _ = hold_out(self.images, settings.test_share, seed)
        return train
