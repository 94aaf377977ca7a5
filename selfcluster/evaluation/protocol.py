"""Which images are looked at, and which are tested against which.

Where there are labels: a training side, whose labels neighbors and probes may use, and a test side, which is only judged. The
test side is the data's own test split, or else the share that the run kept out of training, or else a seeded share. Where there
are none, a sample of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfcluster import randomness
from selfcluster.data.readers.images import Images
from selfcluster.data.readers.labels import Labels
from selfcluster.data.sources import Data, open_data
from selfcluster.data.splits import split
from selfcluster.errors import CheckpointError, DataError
from selfcluster.runs.folder import check_same_data
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import DataSettings

_LEAST_SAMPLE, _PER_PROTOTYPE = 10_000, 10
"""Images that are looked at where there are no labels: so many, or so many for each prototype."""
_SAMPLE = 0x5A3
"""Keeps the draw of the sample apart from every other use of the seed."""


@dataclass(frozen=True)
class Part:
    """Some of the images of a collection."""

    images: Images
    index: NDArray[np.int64]
    """Rising."""
    labels: Labels | None = None

    def codes_of(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class of each of these images; there must be labels."""
        assert self.labels is not None
        return self.labels.codes[index]


@dataclass(frozen=True)
class Sides:
    """A training side and a test side, both with labels."""

    train: Part
    test: Part


@dataclass(frozen=True)
class Parts:
    """All that an evaluation looks at."""

    sides: Sides | None
    """None where there are no labels."""
    points: Part
    """What is clustered, and looked at without labels."""
    name: str
    """Of the data."""
    identity: dict[str, Any]
    """What the figures are of, apart from the run: two evaluations of equal ones can stand in one table."""
    is_own: bool
    """Whether it is the run's own data."""
    notes: tuple[str, ...]


def parts_of(run: OpenRun, data: Any, test: Any, test_share: float, labels: str) -> Parts:
    """What an evaluation of this run on these data looks at.

    Args:
        run, data, test, test_share, labels: as in `evaluate`.
    Raises:
        DataError: images that cannot be used, labels that do not fit, or the run's own data that is not what it was.
    """
    opened, is_own = _opened(run, data, labels)
    settings = DataSettings(labels=labels, max_megapixels=run.config.data.max_megapixels)
    other = open_data(test, settings) if test is not None else None
    tested = other.images if other is not None else opened.test
    held_out = run.config.data.test_share if is_own and tested is None else 0.0
    identity = {
        "data": opened.where or opened.images.digest(),
        "test": (other.where or other.images.digest()) if other is not None else "",
        "test_share": 0.0 if tested is not None else held_out or test_share,
        "labels": labels,
    }
    common: dict[str, Any] = {"name": opened.name, "identity": identity, "is_own": is_own}
    known = opened.images.labels
    if known is None or len(np.unique(known.codes[known.codes >= 0])) < 2:
        points, notes = _sample(run, opened.images, tested, held_out)
        why = "there are no labels" if known is None else "the labels name fewer than two classes"
        return Parts(None, points, notes=(f"{why}: only what needs none is measured", notes), **common)
    if tested is not None:
        sides, said = _against(opened.images, tested)
        return Parts(sides, sides.test, notes=said, **common)
    sides, points, said = _shared(run, opened.images, test_share, held_out, is_own)
    return Parts(sides, points, notes=said, **common)


def _opened(run: OpenRun, data: Any, labels: str) -> tuple[Data, bool]:
    """The data, and whether it is the run's own, which may also be named again."""
    if data is None:
        opened = run.data(labels=labels)
        check_same_data(run.path, opened)
        return opened, True
    opened = open_data(data, DataSettings(labels=labels, max_megapixels=run.config.data.max_megapixels))
    if opened.where != run.images or (not opened.where and not _is_what_it_was(run.path, opened)):
        return opened, False
    if opened.where:
        opened = run.data(labels=labels)
        check_same_data(run.path, opened)
    return opened, True


def _is_what_it_was(folder: Path, data: Data) -> bool:
    try:
        check_same_data(folder, data)
    except (DataError, CheckpointError):  # also where the run came without its images
        return False
    return True


def _sample(run: OpenRun, images: Images, tested: Images | None, held_out: float) -> tuple[Part, str]:
    """What is looked at where there are no labels, and a note of it."""
    if tested is not None:
        from_which, index, which = tested, np.arange(len(tested)), "test images"
    elif held_out:
        from_which, index, which = images, np.setdiff1d(np.arange(len(images)), run.trained_on()), "images that were kept out of training"
    else:
        from_which, index, which = images, np.arange(len(images)), "images"
    n = max(_LEAST_SAMPLE, _PER_PROTOTYPE * run.config.n_prototypes[0])
    total = len(index)
    if total > n:
        index = np.sort(index[randomness.permutation(total, run.config.run.seed, _SAMPLE)[:n]])
    return Part(from_which, index), f"looked at {f'{n:,} of ' if total > n else ''}{total:,} {which}"


def _against(images: Images, tested: Images) -> tuple[Sides, tuple[str, ...]]:
    if tested.labels is None:
        raise DataError("the test images have no labels; give folders that are classes")
    known = images.labels
    assert known is not None
    test_labels = tested.labels.renamed(known.names)
    train = _labeled(images, np.arange(len(images)), Labels(known.codes, test_labels.names))
    test = _labeled(tested, np.arange(len(tested)), test_labels)
    said = f"tested on {len(test.index):,} images of the test split, neighbors from {len(train.index):,}; clusters of the test split"
    return Sides(train, test), (said,)


def _shared(run: OpenRun, images: Images, test_share: float, held_out: float, is_own: bool) -> tuple[Sides, Part, tuple[str, ...]]:
    """Sides of one collection, and what is clustered: the test side where it is unseen, or else everything."""
    labels = images.labels
    assert labels is not None
    if held_out:
        train_index = run.trained_on()
        test_index = np.setdiff1d(np.arange(len(images)), train_index)
    else:
        train_index, test_index = split(images, test_share, run.config.run.seed)
    sides = Sides(_labeled(images, train_index, labels), _labeled(images, test_index, labels))
    points = sides.test if held_out else _labeled(images, np.arange(len(images)), labels)
    seen = (
        "were kept out of training" if held_out else "were seen in training (without labels)" if is_own else "are other data than the run's"
    )
    return (
        sides,
        points,
        (
            f"tested on a share of {held_out or test_share:g} ({len(sides.test.index):,} images, which {seen})",
            f"clusters of {'these' if held_out else 'all'} {len(points.index):,} images",
        ),
    )


def _labeled(images: Images, index: NDArray[np.int64], labels: Labels) -> Part:
    part = Part(images, index[labels.codes[index] >= 0], labels)
    if len(np.unique(part.codes_of(part.index))) < 2:
        raise DataError("evaluation needs images of two classes or more")
    return part
