"""Clusters of the page, in a headless browser: sorted, named, cut, merged, and what comes back from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selfcluster.data.sources import open_data
from selfcluster.inference.names import read_names
from selfcluster.reporting.render import build
from selfcluster.settings.config import DataSettings
from tests import browser, pages
from tests.reporting.conftest import AWKWARD

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")


def test_clusters_are_sorted(page: browser.Browser) -> None:
    def numbers(attribute: str) -> list[str]:
        page.value(f"(s => {{ s.value = {attribute!r}; s.dispatchEvent(new Event('change')); }})(document.querySelector('#order'))")
        return page.value("[...document.querySelectorAll('.card .meta')].map(e => e.textContent)")

    cohesion = [float(text.split()[1]) for text in numbers("cohesion")]
    assert cohesion == sorted(cohesion, reverse=True)
    numbers("size")
    sizes = page.value("[...document.querySelectorAll('.card .size')].map(e => parseInt(e.textContent))")
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == 61
    page.click(".card:last-child .name")
    page.type("aaa")
    numbers("name")
    assert page.value("document.querySelector('.card .name').value") == "aaa"


SIZES = "[...document.querySelectorAll('.card .size')].map(e => parseInt(e.textContent))"


def _cut(page: browser.Browser, k: int) -> None:
    page.value(
        f"(s => {{ s.value = {k}; for (const e of ['input', 'change']) s.dispatchEvent(new Event(e)); }})(document.querySelector('#cut'))"
    )


def test_a_name_is_stored_shown_and_exported(page: browser.Browser, file: Path, tmp_path: Path) -> None:
    name = 'cats, "big" <b>'
    page.click(".card .name")
    page.type(name)
    number = page.value("document.querySelector('.card .name').getAttribute('aria-label').split(' ').pop()")
    page.open(file)
    assert page.value("document.querySelector('.card .name').value") == name
    assert name in page.value("[...document.querySelectorAll('#focus option')].map(e => e.textContent)")
    rows = page.exported(tmp_path / "names")
    assert len(rows) == 61
    assert set(AWKWARD) < {row["path"] for row in rows}
    size = page.value("parseInt(document.querySelector('.card .size').textContent)")
    assert [row["cluster"] for row in rows if row["name"] == name] == [number] * size
    assert {row["name"] for row in rows} == {name, ""}


def test_clusters_are_cut_coarser_and_split_and_the_page_remembers(page: browser.Browser, file: Path, tmp_path: Path) -> None:
    assert page.value("document.querySelector('#cut-n').textContent") == "4"
    assert page.value("document.querySelector('#cut').max") == "4"
    before = page.value(SIZES)
    page.click(".card .name")
    page.type("kept")
    _cut(page, 2)
    assert len(page.value(SIZES)) == 2
    assert sum(page.value(SIZES)) == 61
    rows = page.exported(tmp_path / "two")
    assert {int(row["cluster"]) for row in rows if not row["name"]} - {0, 1, 2, 3}  # a new cluster has a new number
    page.open(file)
    assert len(page.value(SIZES)) == 2
    page.value("[...document.querySelectorAll('.card-foot button')].find(e => e.textContent === 'Split').click()")
    assert len(page.value(SIZES)) == 3
    page.click("#undo")
    assert len(page.value(SIZES)) == 2
    page.click("#as-found")
    assert page.value(SIZES) == before
    assert page.value("document.querySelector('.card .name').value") == "kept"
    assert page.value("document.querySelector('#as-found').disabled")


def test_a_cluster_without_parts_is_split_on_the_map(page: browser.Browser) -> None:
    page.value("document.querySelector('.card [aria-label^=\"Split on the map\"]').click()")
    assert page.value("document.querySelector('#lasso').getAttribute('aria-pressed')") == "true"
    assert 0 <= page.value("document.querySelector('#map').getBoundingClientRect().top") < 100


def test_typical_images_of_a_new_cluster_are_nearest_to_its_own_mean(page: browser.Browser, photos: Path) -> None:
    _cut(page, 2)
    page.click(".card .card-foot button")
    members = page.value("[...document.querySelectorAll('.card .members .thumb')].map(e => e.getAttribute('aria-label'))")
    images = open_data(str(photos), DataSettings()).images
    place = {path: row for row, path in enumerate(images.paths().to_pylist())}
    features = pages.clustered(images).features
    unit = (features - features.mean(axis=0)) / np.linalg.norm(features - features.mean(axis=0), axis=1, keepdims=True)
    rows = [place[path] for path in members]
    cosines = unit[rows] @ unit[rows].mean(axis=0)
    assert np.corrcoef(cosines, -np.arange(len(rows)))[0, 1] > 0.9
    shown = page.value("[...document.querySelector('.card .strip').querySelectorAll('.thumb')].map(e => e.getAttribute('aria-label'))")
    assert shown == members[: len(shown)]
    page.click(".card .thumb")
    assert "Margin" not in page.value("document.querySelector('#viewer-facts').textContent")


def test_a_page_without_a_tree_has_no_control_for_it(window: browser.Browser, photos: Path, tmp_path: Path) -> None:
    images = open_data(str(photos), DataSettings()).images
    (tmp_path / "report.html").write_bytes(build(pages.page(images, tree=None)))
    window.open(tmp_path / "report.html")
    assert len(window.value(SIZES)) == 4
    assert window.value("document.querySelector('#cut').hidden && document.querySelector('#as-found').hidden")
    assert window.complaints == []


def test_what_is_arranged_in_the_page_can_be_read_by_apply(page: browser.Browser, photos: Path, tmp_path: Path) -> None:
    _cut(page, 3)
    for place, name in enumerate(["cats", "dogs", "cats"]):
        page.value(f"document.querySelectorAll('.card .name')[{place}].focus()")
        page.type(name)
    assert "once applied" in page.value("document.querySelector('.card .meta').textContent")
    page.exported(tmp_path / "names")
    (kept,) = (tmp_path / "names").glob("*.csv")
    table = pages.clustered(open_data(str(photos), DataSettings()).images).table
    sizes = page.value(SIZES)
    found = read_names(kept, table, ("",) * 4)
    assert sorted(found.names) == ["cats", "dogs"]
    assert sorted(np.bincount(found.groups)) == sorted([sizes[0] + sizes[2], sizes[1]])


NAMES = "[...document.querySelectorAll('.card .name')].map(e => e.value)"


def test_clusters_are_merged_rejected_and_the_names_taken_back(page: browser.Browser) -> None:
    page.value("document.querySelector('.card .merge').focus()")
    assert page.value("document.querySelectorAll('.card .merge')[0].length") == 4
    similar = page.value("document.querySelector('.card .similar .link').textContent")
    assert page.value("document.querySelector('.card .merge').options[1].textContent").startswith(similar)
    page.value("(s => { s.value = s.options[1].value; s.dispatchEvent(new Event('change')); })(document.querySelector('.card .merge'))")
    (name,) = {text for text in page.value(NAMES) if text}
    assert page.value(NAMES).count(name) == 2
    page.value("[...document.querySelectorAll('.card-foot button')].filter(e => e.textContent === 'Not a cluster').pop().click()")
    assert page.value(NAMES)[-1] == "not a cluster"
    page.click(".card:last-child .name")
    page.type("x")
    page.value("document.activeElement.blur()")
    assert page.value(NAMES)[-1] == "not a clusterx"
    for n_named in (3, 2, 0):
        page.click("#undo")
        assert sum(map(bool, page.value(NAMES))) == n_named
    assert page.value("document.querySelector('#undo').disabled")


def test_all_images_of_a_cluster_can_be_shown(page: browser.Browser) -> None:
    size = page.value("parseInt(document.querySelector('.card .size').textContent)")
    page.click(".card .card-foot button")
    assert page.value("document.querySelectorAll('.card .members .thumb').length") == size
    page.click(".card .card-foot button")
    assert page.value("document.querySelector('.card .members')") is None


TILES = "[...document.querySelectorAll('#mosaic .tile')].map(e => e.getAttribute('aria-label'))"


def test_the_first_screen_has_a_tile_for_each_cluster_and_a_click_leads_to_it(page: browser.Browser) -> None:
    sizes = [int(text.split(", ")[1].split()[0]) for text in page.value(TILES)]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    boxes = page.value(
        "(m => [...m.children].map(e => e.getBoundingClientRect()).concat(m.getBoundingClientRect()).map(b => [b.x, b.y, b.width, b.height]))"
        "(document.querySelector('#mosaic'))"
    )
    *tiles, (left, top, width, height) = boxes
    assert top + height < 900
    assert sum(w * h for _, _, w, h in tiles) == pytest.approx(width * height, rel=0.01)
    assert tiles[0][2] * tiles[0][3] / (width * height) == pytest.approx(sizes[0] / 61, abs=0.01)
    assert all(x >= left - 1 and y >= top - 1 and x + w <= left + width + 1 and y + h <= top + height + 1 for x, y, w, h in tiles)
    page.click("#mosaic .tile")
    assert page.value("document.activeElement.className") == "name"
    assert page.value("document.activeElement.closest('.card').querySelector('.size').textContent") == f"{sizes[0]} images"


def test_the_mosaic_follows_the_cut_and_names(page: browser.Browser) -> None:
    _cut(page, 2)
    assert len(page.value(TILES)) == 2
    page.click(".card .name")
    page.type("cats")
    page.until("[...document.querySelectorAll('#mosaic .tile')].some(e => e.textContent === 'cats')")
