"""The images of an evaluation and their split.

With labels: training images, whose labels neighbors and probes may use, and test images, which are the data's own test split, or
the share that the run held out of training, or else a seeded share. Without labels: a sample of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfcluster import randomness
from selfcluster.data.dataset import Data
from selfcluster.data.readers.images import Images
from selfcluster.data.readers.labels import Labels
from selfcluster.data.sources import open_data
from selfcluster.data.splits import hold_out
from selfcluster.errors import DataError
from selfcluster.runs.manifest import check_same_data
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import DataSettings

_MIN_SAMPLE, _PER_PROTOTYPE = 10_000, 10
"""Images in the sample without labels: at least the first number, and at least the second per prototype."""
_SAMPLE = 0x5A3
"""Key of the random draws."""


@dataclass(frozen=True)
class Subset:
    """Some of the images of a collection."""

    images: Images
    index: NDArray[np.int64]
    """Ascending."""


@dataclass(frozen=True)
class LabeledSubset(Subset):
    """Some of the images of a collection, with their classes."""

    codes: NDArray[np.int64]
    """Class of each image of the index, from 0."""


@dataclass(frozen=True)
class Split:
    """Labeled images."""

    train: LabeledSubset
    test: LabeledSubset
    clustered: LabeledSubset
    """The test images if training has not seen them, otherwise all."""


@dataclass(frozen=True)
class EvaluationData:
    """Images of an evaluation."""

    name: str
    identity: dict[str, Any]
    """What identifies the images and the split: only results with the same identity are comparable."""
    is_own: bool
    """Whether these are the run's own images."""
    split: Split | None
    """None without labels."""
    points: Subset
    """Images for the metrics without labels."""
    notes: tuple[str, ...]
    why_unlabeled: str = ""
    """Why there is no split."""


def evaluation_data(run: OpenRun, data: Any, test: Any, test_share: float, labels: str) -> EvaluationData:
    """Open the images to evaluate a run on, and split them.

    Args:
        run, data, test, test_share, labels: as in `evaluate`.
    Raises:
        DataError: the images cannot be used, the labels do not fit, or the run's own data have changed.
    """
    opened, is_own = _open(run, data, labels)
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
    classes = opened.images.labels
    if classes is None or classes.n_classes < 2:
        points, note = _sample(run, opened.images, tested, held_out)
        why = "there are no labels" if classes is None else "the labels name fewer than two classes"
        said = (f"{why}: only metrics without labels are computed", note)
        return EvaluationData(opened.name, identity, is_own, None, points, said, why)
    if tested is not None:
        labeled, notes = _with_test_images(opened.images, classes, tested)
    else:
        labeled, notes = _with_share(run, opened.images, classes, test_share, held_out, is_own)
    return EvaluationData(opened.name, identity, is_own, labeled, labeled.clustered, notes)


def _open(run: OpenRun, data: Any, labels: str) -> tuple[Data, bool]:
    """Open the data, and return whether they are the run's own, which may also be given by name."""
    if data is not None:
        opened = open_data(data, DataSettings(labels=labels, max_megapixels=run.config.data.max_megapixels))
        if not opened.where or opened.where != run.images:
            return opened, not opened.where and not run.images and run.is_own(opened.images)
    opened = run.data(labels=labels)
    check_same_data(run.path, opened)
    return opened, True


def _sample(run: OpenRun, images: Images, tested: Images | None, held_out: float) -> tuple[Subset, str]:
    """Choose the images for the metrics without labels, and describe them."""
    if tested is not None:
        collection, index, which = tested, np.arange(len(tested)), "test images"
    elif held_out:
        collection, index, which = images, np.setdiff1d(np.arange(len(images)), run.trained_on()), "images held out of training"
    else:
        collection, index, which = images, np.arange(len(images)), "images"
    n, total = max(_MIN_SAMPLE, _PER_PROTOTYPE * run.config.n_prototypes[0]), len(index)
    if total > n:
        index = np.sort(index[randomness.permutation(total, run.config.run.seed, _SAMPLE)[:n]])
    return Subset(collection, index), f"sample of {n:,} of {total:,} {which}" if total > n else f"all {total:,} {which}"


def _with_test_images(images: Images, labels: Labels, tested: Images) -> tuple[Split, tuple[str, ...]]:
    if tested.labels is None:
        raise DataError("the test images have no labels; give them in one folder per class")
    train = _labeled(images, np.arange(len(images)), labels)
    test = _labeled(tested, np.arange(len(tested)), tested.labels.renamed(labels.names))
    note = f"tested on {len(test.index):,} images of the test split, with {len(train.index):,} training images; clusters of the test split"
    return Split(train, test, test), (note,)


def _with_share(
    run: OpenRun, images: Images, labels: Labels, test_share: float, held_out: float, is_own: bool
) -> tuple[Split, tuple[str, ...]]:
    """Split one collection, as training did if it held images out."""
    if held_out:
        train_index = run.trained_on()
        test_index = np.setdiff1d(np.arange(len(images)), train_index)
        seen = "held out of training"
    else:
        train_index, test_index = hold_out(images, test_share, run.config.run.seed)
        seen = (
            "clustered without labels"
            if is_own and run.config.method == "explore"
            else "seen in training (without labels)"
            if is_own
            else "not of the run's own data"
        )
    train, test = _labeled(images, train_index, labels), _labeled(images, test_index, labels)
    clustered = test if held_out else _labeled(images, np.arange(len(images)), labels)
    notes = (
        f"tested on a share of {held_out or test_share:g} ({len(test.index):,} images, {seen})",
        f"clusters of {'these' if held_out else 'all'} {len(clustered.index):,} images",
    )
    return Split(train, test, clustered), notes


def _labeled(images: Images, index: NDArray[np.int64], labels: Labels) -> LabeledSubset:
    index = index[labels.codes[index] >= 0]
    codes = labels.codes[index]
    if len(np.unique(codes)) < 2:
        raise DataError("evaluation needs images of at least two classes; give more labels, or use --labels none")
    return LabeledSubset(images, index, codes)
