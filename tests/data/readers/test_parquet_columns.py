"""Which column contains the images, and which their classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from selfcluster.data.readers.parquet import ParquetImages
from selfcluster.errors import DataError
from tests import packing

PNGS = packing.pngs(12)


def struct_like(name: str) -> dict[str, Any]:
    return {name: packing.structs(PNGS)}


@pytest.mark.parametrize(
    ("columns", "features", "given", "expected"),
    [
        ({**struct_like("img"), **struct_like("thumbnail")}, None, "", "img"),
        ({**struct_like("a"), "b": range(12), "c": ["x"] * 12}, None, "", "a"),
        ({**struct_like("a"), **struct_like("image")}, None, "a", "a"),
        ({**struct_like("sound"), "photo": PNGS}, {"sound": {"_type": "Audio"}, "photo": {"_type": "Image"}}, "", "photo"),
        ({"x.y": PNGS, "x": range(12)}, None, "", "x.y"),
    ],
)
def test_the_column_of_images(tmp_path: Path, columns: dict[str, Any], features: Any, given: str, expected: str) -> None:
    packing.parquet(tmp_path / "x.parquet", columns, features=features)
    images = ParquetImages(tmp_path, ["x.parquet"], column=given)
    assert images.column == expected
    assert images.decode(3).pixels.shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("columns", "given", "message"),
    [
        (
            {**struct_like("a"), **struct_like("b")},
            "",
            r"several columns that can contain images, a, b; choose one, such as '.*x\.parquet#a'",
        ),
        ({**struct_like("a"), "n": range(12)}, "n", r"no column 'n' of images; columns that can contain images: a"),
        ({"n": range(12), "text": ["x"] * 12}, "", r"contains no images; none of its columns \(n, text\) contains bytes"),
        ({"n": range(12)}, "a", r"no column 'a' of images; none of its columns \(n\)"),
        ({"image": pa.array([], pa.binary())}, "", "no images found.*column 'image' has no rows"),
    ],
)
def test_unsuitable_columns_are_one_line_errors(tmp_path: Path, columns: dict[str, Any], given: str, message: str) -> None:
    packing.parquet(tmp_path / "x.parquet", columns)
    with pytest.raises(DataError, match=message) as caught:
        ParquetImages(tmp_path, ["x.parquet"], column=given)
    assert "\n" not in str(caught.value)


def test_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS})
    packing.parquet(tmp_path / "y.parquet", struct_like("photo"))
    with pytest.raises(DataError, match=r"y\.parquet' has no column 'image' like that of 'x\.parquet'"):
        ParquetImages(tmp_path, ["x.parquet", "y.parquet"])


def test_class_names_come_from_hugging_faces_metadata(tmp_path: Path) -> None:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}}
    label = [i % 4 - 1 for i in range(12)]
    packing.parquet(tmp_path / "x.parquet", {"image": packing.structs(PNGS), "label": label}, features=features)
    labels = ParquetImages(tmp_path, ["x.parquet"]).labels
    assert labels is not None
    assert labels.names == ("cat", "dog", "owl")
    assert labels.codes.tolist() == label


@pytest.mark.parametrize(
    ("label", "names", "codes"),
    [
        (pa.array([10, 9, None, -1] * 3, pa.int8()), ("9", "10"), [1, 0, -1, -1] * 3),
        (pa.array(["b", "a", None, ""] * 3), ("a", "b"), [1, 0, -1, -1] * 3),
        (pa.array(["10", "9", None, "-1"] * 3, pa.large_string()), ("9", "10"), [1, 0, -1, -1] * 3),
        (pa.array(["b", "a", None, "b"] * 3).dictionary_encode(), ("a", "b"), [1, 0, -1, 1] * 3),
        (pa.array([True, False, None, True] * 3), ("false", "true"), [1, 0, -1, 1] * 3),
    ],
)
def test_labels_of_many_kinds(tmp_path: Path, label: pa.Array, names: tuple[str, ...], codes: list[int]) -> None:
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS, "label": label})
    labels = ParquetImages(tmp_path, ["x.parquet"]).labels
    assert labels is not None
    assert labels.names == names
    assert labels.codes.tolist() == codes


def test_which_column_is_the_class(tmp_path: Path) -> None:
    def names(features: Any = None, **columns: Any) -> tuple[str, ...] | None:
        packing.parquet(tmp_path / "x.parquet", {"image": PNGS, **columns}, features=features)
        labels = ParquetImages(tmp_path, ["x.parquet"]).labels
        return None if labels is None else labels.names

    numbers = [0, 1] * 6
    assert names(coarse_label=numbers, fine_label=["a", "b"] * 6) == ("a", "b")
    assert names(species=numbers) is None
    assert names({"species": {"_type": "ClassLabel", "names": ["ant", "bee"]}}, species=numbers, other=numbers) == ("ant", "bee")
    assert names({name: {"_type": "ClassLabel", "names": ["ant", "bee"]} for name in ("p", "q")}, p=numbers, q=numbers) is None
    assert names({"label": {"_type": "ClassLabel", "names": ["ant"]}}, label=numbers) == ("0", "1"), "more classes than names"
    assert names({"label": {"_type": "ClassLabel", "names": ["ant", "bee"]}}, label=["p", "q"] * 6) == ("p", "q")
    assert names(label=[0.5] * 12) is None
    assert names(label=[[1, 2]] * 12) is None


def test_files_without_the_classes_of_the_first_are_data_without_labels(tmp_path: Path) -> None:
    packing.parquet(tmp_path / "x.parquet", {"image": PNGS, "label": [0, 1] * 6})
    packing.parquet(tmp_path / "y.parquet", {"image": PNGS})
    assert ParquetImages(tmp_path, ["x.parquet", "y.parquet"]).labels is None
    packing.parquet(tmp_path / "y.parquet", {"image": PNGS, "label": [[0], [1]] * 6})
    with pytest.raises(DataError, match=r"cannot read column 'label' of '.*y\.parquet'"):
        ParquetImages(tmp_path, ["x.parquet", "y.parquet"])
