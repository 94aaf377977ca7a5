"""What the script is given can be read back, and cannot break out of the page."""

from __future__ import annotations

import base64
import dataclasses
import json

import numpy as np
import pytest

from selfcluster.data.readers.images import ArrayImages
from selfcluster.reporting.galleries import clusters_of
from selfcluster.reporting.page import Limits, Page, TopImages, TopOfPrototypes
from selfcluster.reporting.payload import as_json, content_of, front_coded, packed, scaled
from tests import pages, tiny


def _unpacked(column: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(column["base64"]), dtype=f"<{column['kind']}")


def _read_back(shared: list[int], rest: list[str]) -> list[str]:
    """As the script does it, in UTF-16 units."""
    paths, before = [], b""
    for n, text in zip(shared, rest, strict=True):
        before = before[: 2 * n] + text.encode("utf-16-le")
        paths.append(before.decode("utf-16-le"))
    return paths


def test_front_coding_can_be_undone() -> None:
    texts = ["a/1.png", "a/10.png", "a/2.png", "b", "", "b/😀1", "b/😀2", "b/😁", "é", "é"]
    shared, rest = front_coded(texts)
    assert _read_back(shared, rest) == texts
    assert sum(map(len, rest)) < sum(map(len, texts))


@pytest.mark.parametrize(("largest", "kind"), [(0, "u1"), (255, "u1"), (256, "u2"), (65_535, "u2"), (65_536, "u4")])
def test_numbers_take_the_fewest_bytes(largest: int, kind: str) -> None:
    column = packed(np.array([0, largest]))
    assert column["kind"] == kind
    assert _unpacked(column).tolist() == [0, largest]


def test_fractions_come_back_to_a_65000th() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    column = scaled(values)
    back = column["low"] + column["step"] * _unpacked(column).astype(np.float64)
    np.testing.assert_allclose(back, values, atol=np.ptp(values) / 65_000)
    flat = scaled(np.full(5, 2.5))
    assert (flat["low"], flat["step"]) == (2.5, 0)


def test_json_holds_no_markup_and_means_the_same() -> None:
    value = {"a": "</script><script>alert(1)</script>", "b": "\u2028\u2029 & <!--", "c": ["é", 1.5, None]}
    text = as_json(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


@pytest.fixture(scope="module")
def page() -> Page:
    images = ArrayImages(tiny.images(150))
    tops = TopOfPrototypes(8, 1, 1, (TopImages(3, 5, (149, 0, 77)),))
    return pages.page(images, pages.clustered(images, labels=[str(i % 3) for i in range(150)]), prototypes=tops)


def test_columns_are_those_of_the_table(page: Page) -> None:
    clusters = clusters_of(page.table, page.features, large=4000)
    data = content_of(page, clusters).data
    numbers = np.array([c["number"] for c in data["clusters"]])
    assert (numbers[_unpacked(data["cluster"])] == page.table["cluster"].to_numpy()).all()
    assert _read_back(_unpacked(data["shared"]).tolist(), data["paths"]) == page.table["path"].to_pylist()
    assert [data["labels"][code - 1] for code in _unpacked(data["label"])] == page.table["label"].to_pylist()
    x, y = _unpacked(data["x"]).astype(float), _unpacked(data["y"]).astype(float)
    assert np.corrcoef(x, page.table["x"].to_numpy())[0, 1] > 0.9999
    assert np.ptp(x) / np.ptp(y) == pytest.approx(np.ptp(page.table["x"].to_numpy()) / np.ptp(page.table["y"].to_numpy()), rel=1e-3)
    assert data["neighbors"]["each"] == 8
    assert _unpacked(data["neighbors"]).reshape(150, 8).max() < 150
    assert data["prototypes"] == [{"number": 3, "n": 5, "points": [149, 0, 77]}]


def test_images_that_are_small_themselves_have_no_large_thumbnail(page: Page) -> None:
    assert list(content_of(page, clusters_of(page.table, page.features, large=4000)).sheets) == ["small"]


def test_a_sample_is_numbered_anew(page: Page) -> None:
    images = ArrayImages(tiny.images(150, pixels=48))
    small = dataclasses.replace(page, images=images, limits=Limits(points=100, large=40))
    clusters = clusters_of(small.table, small.features, large=40)
    content = content_of(small, clusters)
    data, index = content.data, _unpacked(content.data["index"])
    assert content.n_points == len(index) == 100
    for c, told in zip(clusters, data["clusters"], strict=True):
        assert index[told["typical"]].tolist() == list(c.typical)
    assert index[data["prototypes"][0]["points"]].tolist() == [149, 0, 77]
    large = _unpacked(data["large"])
    assert sorted(large[large > 0]) == list(range(1, 41))
    assert content.sheets["large"].side == 48
    galleries = [point for c in data["clusters"] for kind in ("typical", "border", "outliers") for point in c[kind]]
    assert (large[galleries] > 0).all()


def test_another_clustering_has_another_key(page: Page) -> None:
    other = pages.clustered(page.images, k=3)
    keys = {content_of(p, clusters_of(p.table, p.features, large=10)).data["key"] for p in (page, pages.page(page.images, other))}
    assert len(keys) == 2


def test_duplicates_are_groups_of_the_table(page: Page) -> None:
    array = tiny.images(40)
    array[7], array[21] = array[3], array[3]
    images = ArrayImages(array)
    copied = pages.page(images)
    content = content_of(copied, clusters_of(copied.table, copied.features, large=10))
    assert content.data["duplicates"] == [[3, 7, 21]]
    assert content.n_duplicates == 1
