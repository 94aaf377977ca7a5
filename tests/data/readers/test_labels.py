"""Classes of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.labels import Labels, labels_of
from selfcluster.errors import DataError
from tests.pictures import fill


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cat/1.png", "dog/1.png", "cat/2.png"], ("cat", "dog")),
        (["cat/1.png", "cat/2.png"], None),
        (["1.png", "2.png"], None),
        (["cat/1.png", "dog/1.png", "3.png"], None),
        (["cat/1.png", "dog/black/1.png"], None),
    ],
)
def test_parent_folders_are_classes_only_one_level_deep_and_from_two_on(
    tmp_path: Path, names: list[str], classes: tuple[str, ...] | None
) -> None:
    labels = FolderImages(fill(tmp_path, *names)).labels
    if classes is None:
        assert labels is None
    else:
        assert labels is not None
        assert labels.names == classes
        assert labels.codes.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("values", "codes", "names"),
    [
        ([3, 1, 3, -1, -7], [1, 0, 1, -1, -1], ("1", "3")),
        (["dog", "cat", "", "dog"], [1, 0, -1, 1], ("cat", "dog")),
        (np.array([b"dog", b"cat"]), [1, 0], ("cat", "dog")),
        ([2.0, np.nan, 5.0], [0, -1, 1], ("2", "5")),
        (np.array([[2], [0]], np.uint8), [1, 0], ("0", "2")),
        ([True, False], [1, 0], ("False", "True")),
    ],
)
def test_labels_are_names_or_numbers(values: object, codes: list[int], names: tuple[str, ...]) -> None:
    labels = labels_of(values, len(codes))  # type: ignore[arg-type]
    assert labels.codes.tolist() == codes
    assert labels.codes.dtype == np.int64
    assert labels.names == names


def test_numbers_into_given_names_stay_as_they_are() -> None:
    labels = labels_of([2, -1, 0, -3], 4, names=("a", "b", "c"))
    assert labels.codes.tolist() == [2, -1, 0, -1]
    assert labels.names == ("a", "b", "c")


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="3 labels for 4 images"):
        labels_of([1, 2, 3], 4)
    with pytest.raises(DataError, match="fractions"):
        labels_of([0.5, 1.0], 2)


def test_renamed_keeps_classes_and_changes_codes() -> None:
    labels = Labels(np.array([0, 1, -1, 2]), ("cat", "dog", "owl")).renamed(("ant", "dog", "cat"))
    assert labels.names == ("ant", "dog", "cat", "owl")
    assert labels.codes.tolist() == [2, 1, -1, 3]
    assert labels.take([3, 0]).codes.tolist() == [3, 2]
