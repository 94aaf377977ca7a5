"""The data for the script can be read back."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
import pytest

from selfcluster.data.readers.images import ArrayImages
from selfcluster.reporting.galleries import cluster_galleries
from selfcluster.reporting.page import Limits, Page
from selfcluster.reporting.payload import build_payload, front_coded, packed, scaled
from selfcluster.reporting.prototypes import PrototypeGalleries, PrototypeGallery
from tests import pages, tiny


def _unpacked(column: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(column["base64"]), dtype=f"<{column['kind']}")


def _read_back(shared: list[int], rest: list[str]) -> list[str]:
    """Undo front coding as the script does, in UTF-16 units."""
    paths, before = [], b""
    for n, text in zip(shared, rest, strict=True):
        before = before[: 2 * n] + text.encode("utf-16-le")
        paths.append(before.decode("utf-16-le"))
    return paths


def test_front_coding_can_be_reversed() -> None:
    texts = ["a/1.png", "a/10.png", "a/2.png", "b", "", "b/😀1", "b/😀2", "b/😁", "é", "é"]
    shared, rest = front_coded(texts)
    assert _read_back(shared, rest) == texts
    assert sum(map(len, rest)) < sum(map(len, texts))


@pytest.mark.parametrize(("largest", "kind"), [(0, "u1"), (255, "u1"), (256, "u2"), (65_535, "u2"), (65_536, "u4")])
def test_numbers_take_the_fewest_bytes(largest: int, kind: str) -> None:
    column = packed(np.array([0, largest]))
    assert column["kind"] == kind
    assert _unpacked(column).tolist() == [0, largest]


def test_fractions_are_restored_to_a_65000th() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    column = scaled(values)
    back = column["low"] + column["step"] * _unpacked(column).astype(np.float64)
    np.testing.assert_allclose(back, values, atol=np.ptp(values) / 65_000)
    flat = scaled(np.full(5, 2.5))
    assert (flat["low"], flat["step"]) == (2.5, 0)


@pytest.fixture(scope="module")
def page() -> Page:
    images = ArrayImages(tiny.images(150))
    prototypes = PrototypeGalleries(8, 1, 1, (PrototypeGallery(3, 5, (149, 0, 77)),))
    return pages.page(images, pages.clustered(images, labels=[str(i % 3) for i in range(150)]), prototypes=prototypes)


def test_columns_are_those_of_the_table(page: Page) -> None:
    clusters = cluster_galleries(page.table, page.features, n_large=4000)
    data = build_payload(page, clusters).data
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


def test_small_images_have_no_large_thumbnail(page: Page) -> None:
    assert list(build_payload(page, cluster_galleries(page.table, page.features, n_large=4000)).sheets) == ["small"]


def test_points_of_a_sample_are_renumbered(page: Page) -> None:
    images = ArrayImages(tiny.images(150, pixels=48))
    small = dataclasses.replace(page, images=images, limits=Limits(n_points=100, n_large=40))
    clusters = cluster_galleries(small.table, small.features, n_large=40)
    payload = build_payload(small, clusters)
    data, index = payload.data, _unpacked(payload.data["index"])
    assert payload.n_points == len(index) == 100
    for c, written in zip(clusters, data["clusters"], strict=True):
        assert index[written["typical"]].tolist() == list(c.typical)
    assert index[data["prototypes"][0]["points"]].tolist() == [149, 0, 77]
    large = _unpacked(data["large"])
    assert sorted(large[large > 0]) == list(range(1, 41))
    assert payload.sheets["large"].side == 48
    galleries = [point for c in data["clusters"] for kind in ("typical", "border", "least_typical") for point in c[kind]]
    assert (large[galleries] > 0).all()


def test_another_clustering_has_another_key(page: Page) -> None:
    other = pages.clustered(page.images, k=3)
    keys = {
        build_payload(p, cluster_galleries(p.table, p.features, n_large=10)).data["key"] for p in (page, pages.page(page.images, other))
    }
    assert len(keys) == 2


def test_copies_are_groups_of_the_table(page: Page) -> None:
    array = tiny.images(40)
    array[7], array[21] = array[3], array[3]
    images = ArrayImages(array)
    copied = pages.page(images)
    payload = build_payload(copied, cluster_galleries(copied.table, copied.features, n_large=10))
    (group,) = payload.data["copies"]
    assert (group["points"], group["n"], group["keep"]) == ([3, 7, 21], 3, 0)
    assert group["sizes"] == [(20, 20, 0)] * 3
    assert payload.n_copy_groups == 1
