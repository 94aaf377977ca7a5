"""The map of the page, in a headless browser: panning, zooming, the image under the pointer, what is selected there, the legend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selfcluster.data.sources import open_data
from selfcluster.inference.names import read_names
from selfcluster.reporting.render import build
from selfcluster.settings.config import DataSettings
from tests import browser, pages

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")


def _colors_of_the_map(page: browser.Browser) -> list[int]:
    """Return the number of pixels of each color of the map, most frequent first."""
    page.middle_of("#canvas")
    x, y, width, height = page.value(
        "(b => [b.x, b.y, b.width, b.height].map(Math.round))(document.querySelector('#canvas').getBoundingClientRect())"
    )
    part = page.pixels()[max(0, y) : y + height, x : x + width].reshape(-1, 3)
    return sorted(np.unique(part, axis=0, return_counts=True)[1].tolist(), reverse=True)


def test_the_map_is_drawn(page: browser.Browser) -> None:
    dots = _colors_of_the_map(page)
    assert len(dots) > 5, "the background, four colors of clusters, and their rims"
    assert dots[1] > 50
    page.click("#dots")
    page.frames(10)
    assert _colors_of_the_map(page)[0] < dots[0] - 20_000


def _place_of_a_dot(page: browser.Browser) -> tuple[float, float]:
    """Return the position of the first dot of the map in the window, found by its color."""
    return tuple(
        page.value(
            "(c => { const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer); const b = c.getBoundingClientRect();"
            "const isColored = p => { const c = [p & 255, (p >> 8) & 255, (p >> 16) & 255]; return Math.max(...c) - Math.min(...c) > 60; };"
            "const i = d.findIndex(isColored); return [b.x + i % c.width + 1, b.y + Math.floor(i / c.width) + 2]; })(document.querySelector('#canvas'))"
        )
    )


def test_the_image_under_the_pointer_is_shown_and_opened(page: browser.Browser) -> None:
    page.middle_of("#canvas")
    x, y = _place_of_a_dot(page)
    assert page.value("document.querySelector('#tip').hidden")
    page.move(x, y)
    page.until("!document.querySelector('#tip').hidden")
    path = page.value("document.querySelector('#tip span').textContent")
    assert "blob:" in page.value("getComputedStyle(document.querySelector('#tip .thumb')).backgroundImage")
    page.press(x, y)
    assert page.value("document.querySelector('#viewer').open")
    assert page.value("document.querySelector('#viewer-path').textContent") == path
    assert page.value("document.querySelectorAll('#viewer-neighbors .thumb').length") == 8


def test_the_map_pans_and_zooms_by_mouse_and_keys(page: browser.Browser) -> None:
    page.middle_of("#canvas")
    drawn = "document.querySelector('#canvas').toDataURL().length + document.querySelector('#canvas').toDataURL().slice(-4000, -100)"
    whole = page.value(drawn)
    page.value("document.querySelector('#plot').focus()")
    page.key("+", 187)
    page.key("+", 187)
    enlarged = page.value(drawn)
    assert enlarged != whole
    page.until("document.querySelector('#status').textContent.includes(', Cluster ')")
    page.key("ArrowLeft", 37)
    assert page.value(drawn) != enlarged
    page.key("Enter", 13)
    page.key("0", 48)
    page.move(5, 5)
    page.value("document.activeElement.blur()")
    page.until(f"({drawn}) === {whole!r}")
    x, y = page.middle_of("#canvas")
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100)
    page.until("!document.querySelector('#hint').hidden")
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-100, modifiers=2)
    page.until(f"({drawn}) !== {whole!r}")


def test_a_pinch_zooms_the_map(page: browser.Browser) -> None:
    page.size(390, 844, touch=True)
    page.frames()
    x, y = page.middle_of("#canvas")
    for kind, apart in (("touchStart", 20), ("touchMove", 40), ("touchMove", 80)):
        points = [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
        page.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    page.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    page.until("document.querySelector('#plot').classList.contains('zoomed')")


SIZES = "[...document.querySelectorAll('.card .size')].map(e => parseInt(e.textContent))"
SELECTED = "parseInt(document.querySelector('#n-selected').textContent)"


def _lasso(page: browser.Browser, *, shift: bool = False) -> None:
    """Draw around the left half of the map."""
    page.middle_of("#canvas")
    x, y, width, height = page.value("(b => [b.x, b.y, b.width, b.height])(document.querySelector('#canvas').getBoundingClientRect())")
    left, top, middle, bottom = x + 12, y + 12, x + width / 2, y + height - 12  # within the rounded corners
    page.drag((left, top), (middle, top), (middle, bottom), (left, bottom), shift=shift)


def test_images_drawn_around_become_a_cluster_that_apply_reads(page: browser.Browser, file: Path, photos: Path, tmp_path: Path) -> None:
    page.click("#lasso")
    _lasso(page)
    number = page.value(SELECTED)
    assert 0 < number < 61
    page.click("#make-cluster")
    assert page.value("document.querySelector('#selected').hidden")
    page.type("drawn")
    sizes = page.value(SIZES)
    assert sum(sizes) == 61
    assert number in sizes
    page.exported(tmp_path / "names")
    (names,) = (tmp_path / "names").glob("*.csv")
    table = pages.clustered(open_data(str(photos), DataSettings()).images).table
    found = read_names(names, table, ("",) * 4)
    assert (found.groups == found.names.index("drawn")).sum() == number
    assert sorted(np.bincount(found.groups)) == sorted(sizes)
    page.open(file)
    assert page.value(SIZES) == sizes
    page.value("[...document.querySelectorAll('.card-foot button')].find(e => e.textContent === 'Put back').click()")
    assert page.value("document.querySelectorAll('.card').length") == 4
    page.click("#undo")
    assert page.value(SIZES) == sizes
    page.click("#as-found")
    assert page.value("document.querySelectorAll('.card').length") == 4


def test_images_drawn_around_can_be_exported(page: browser.Browser, tmp_path: Path) -> None:
    _lasso(page, shift=True)
    rows = page.exported(tmp_path / "list", "#export-selected")
    assert len(rows) == len({row["path"] for row in rows}) == page.value(SELECTED)
    page.click("#select-none")
    assert page.value("document.querySelector('#selected').hidden")


def test_the_keyboard_selects_what_is_in_view(page: browser.Browser) -> None:
    page.value("document.querySelector('#plot').focus()")
    page.key("s", 83)
    assert page.value(SELECTED) == 61
    page.key("+", 187)
    page.key("+", 187)
    page.key("s", 83)
    assert 0 < page.value(SELECTED) < 61


def test_a_page_without_a_tree_makes_clusters_too(window: browser.Browser, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_bytes(build(pages.page(open_data(str(photos), DataSettings()).images, tree=None)))
    window.open(tmp_path / "report.html")
    _lasso(window, shift=True)
    window.click("#make-cluster")
    assert sum(window.value(SIZES)) == 61
    window.click("#as-found")
    assert len(window.value(SIZES)) == 4
    assert window.complaints == []


def test_the_legend_names_the_colors_and_shows_a_cluster_alone(page: browser.Browser) -> None:
    sizes = page.value("[...document.querySelectorAll('#legend small')].map(e => parseInt(e.textContent))")
    assert sizes == sorted(page.value(SIZES), reverse=True)
    colors = page.value("[...document.querySelectorAll('#legend .swatch')].map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(colors)) == 4
    page.click("#legend button")
    assert page.value("document.querySelector('#focus').selectedOptions[0].value") == page.value(
        "document.querySelector('#legend button').value"
    )
    page.click("#legend button")
    assert page.value("document.querySelector('#focus').value") == ""
    page.value("(s => { s.value = 'label'; s.dispatchEvent(new Event('change')); })(document.querySelector('#color'))")
    assert "<b>label 0</b>" in page.value("document.querySelector('#legend').textContent")
