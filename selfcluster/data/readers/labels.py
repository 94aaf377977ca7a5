"""Classes of images, from parent folders, from numbers or names, or from a column."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from selfcluster.errors import DataError


@dataclass(frozen=True)
class Labels:
    """The class of each image, used for evaluation only."""

    codes: NDArray[np.int64]
    """Position in `names`; -1 for an image without a label."""
    names: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """Number of classes that images have."""
        return len(np.unique(self.codes[self.codes >= 0]))

    def take(self, index: ArrayLike) -> Labels:
        """Return the labels of some images."""
        return Labels(self.codes[np.asarray(index)], self.names)

    def renamed(self, names: tuple[str, ...]) -> Labels:
        """Return the same classes, with their codes in another list of names, to which unknown names are appended."""
        names = names + tuple(name for name in self.names if name not in names)
        place = np.array([names.index(name) for name in self.names] + [-1])
        return Labels(place[self.codes], names)


def parent_folders(paths: pa.Array) -> Labels | None:
    """Return the parent folders as classes, if every image is exactly one level deep in at least two of them."""
    depth = pc.count_substring(paths, b"/")
    if pc.min_max(depth).as_py() != {"min": 1, "max": 1}:
        return None
    encoded = pc.dictionary_encode(pc.replace_substring_regex(paths, rb"(?s)/.*", b""))
    names = [os.fsdecode(name) for name in encoded.dictionary.to_pylist()]
    if len(names) < 2:
        return None
    return Labels(encoded.indices.to_numpy().astype(np.int64), tuple(names))


def labels_of(values: ArrayLike, n: int, names: tuple[str, ...] | None = None) -> Labels:
    """Return labels from one value per image: class names, or numbers (negative for none).

    Args:
        values: one value per image.
        n: number of images.
        names: class names, if the values are numbers into them.
    Raises:
        DataError: there is not one value per image, or the values are fractions.
    """
    values = np.asarray(values).reshape(-1)
    if len(values) != n:
        raise DataError(f"{len(values):,} labels for {n:,} images; pass one label per image")
    if names is not None:
        return Labels(np.maximum(values.astype(np.int64), -1), tuple(names))
    if np.issubdtype(values.dtype, np.floating):
        values = np.where(np.isnan(values), -1, values)
        if not (values == np.round(values)).all():
            raise DataError("labels are fractions; use class numbers or names")
        values = values.astype(np.int64)
    known, codes = np.unique(values, return_inverse=True)
    unlabeled = known < 0 if np.issubdtype(known.dtype, np.integer) else known.astype(str) == ""
    codes = np.where(unlabeled[codes], -1, codes - unlabeled.sum())
    return Labels(codes.astype(np.int64), tuple(known[~unlabeled].astype(str).tolist()))


def labels_in(column: pa.Array) -> Labels:
    """Return labels from an Arrow array of class names (text, or bytes of text) or numbers; null, negative or empty means none.

    Texts that are all numbers are sorted as numbers, so class 10 follows class 9.
    """
    encoded = pc.dictionary_encode(column.dictionary_decode() if pa.types.is_dictionary(column.type) else column)
    values = encoded.dictionary.to_pylist()
    texts = [value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value for value in values]
    are_numbers = all(isinstance(text, str) and text.removeprefix("-").isdecimal() for text in texts)
    distinct = labels_of([int(text) for text in texts] if are_numbers else texts, len(texts))
    return Labels(np.append(distinct.codes, -1)[encoded.indices.fill_null(len(texts)).to_numpy()], distinct.names)


def names_of(labels: Labels | None) -> pa.Array | None:
    """Return the name of each image's class as text, null for an image without one; None if there are no labels."""
    if labels is None:
        return None
    codes = pa.array(labels.codes, mask=labels.codes < 0)
    names = [os.fsencode(str(name)).decode("utf-8", "backslashreplace") for name in labels.names]  # folders need not be UTF-8
    return pa.array(names, type=pa.string()).take(codes)
