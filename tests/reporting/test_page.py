"""The page in a headless browser: it loads without errors or network, and its parts work."""

from __future__ import annotations

import os
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from selfcluster.data.sources import open_data
from selfcluster.reporting.render import build
from selfcluster.settings.config import DataSettings
from tests import browser, pages
from tests.reporting.conftest import AWKWARD

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")


def test_it_loads_without_errors_or_network(page: browser.Browser) -> None:
    assert page.value("document.title") == "<i>run</i> – selfcluster report"
    assert page.value("document.querySelectorAll('.card').length") == 4


def test_the_policy_blocks_foreign_scripts_and_images(window: browser.Browser, file: Path) -> None:
    window.open(file)
    window.value("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken = 1'}))")
    assert window.value("window.broken") is None
    window.value("new Promise(done => { const i = new Image(); i.onerror = i.onload = done; i.src = 'http://127.0.0.1:9/x.png'; })")
    window.until("true")
    assert any("Content Security Policy" in complaint for complaint in window.complaints)


def test_file_names_with_markup_are_shown_as_text(page: browser.Browser) -> None:
    assert page.value("document.querySelectorAll('img:not(#viewer-original), b b, dd b, td b, i').length") == 0
    labels = page.value("[...document.querySelectorAll('.thumb')].map(e => e.getAttribute('aria-label'))")
    page.click("#query")
    for name in AWKWARD:
        page.value("document.querySelector('#query').value = ''; document.querySelector('#query').focus()")
        page.type(name)
        page.until(f"(e => e && e.getAttribute('aria-label') === {name!r})(document.querySelector('#found .thumb'))")
        page.click("#found .thumb")
        assert page.value("document.querySelector('#viewer-path').textContent") == name
        page.click("#close")
    assert any(label in labels for label in AWKWARD)
    assert page.value("document.scripts.length") == page.value("document.querySelectorAll('body > script').length")


def test_thumbnails_are_drawn(page: browser.Browser, photos: Path) -> None:
    x, y = page.middle_of(".card .thumb")
    time.sleep(0.2)
    side = page.value("document.querySelector('.card .thumb').getBoundingClientRect().width") / 2 - 3
    part = page.pixels()[round(y - side) : round(y + side), round(x - side) : round(x + side)]
    # The image is the one that the label names.
    label = page.value("document.querySelector('.card .thumb').getAttribute('aria-label')")
    with Image.open(photos / label) as image:
        shown = np.asarray(image.resize(part.shape[1::-1])).astype(int)
    assert np.abs(part - shown).mean() < 12
    assert np.abs(part - shown[:, ::-1]).mean() > 20


def test_neighbors_can_be_opened_in_turn(page: browser.Browser) -> None:
    page.click(".card .thumb")
    first = page.value("document.querySelector('#viewer-path').textContent")
    page.click("#viewer-neighbors .thumb")
    assert page.value("document.querySelector('#viewer-path').textContent") != first
    page.click("#back")
    assert page.value("document.querySelector('#viewer-path').textContent") == first
    page.key("Escape", 27)
    assert not page.value("document.querySelector('#viewer').open")


def test_search_finds_paths_names_and_labels(page: browser.Browser) -> None:
    page.click("#query")
    page.type("PHOTO-01")
    page.until("!document.querySelector('#found').hidden")
    found = page.value("[...document.querySelectorAll('#found .thumb')].map(e => e.getAttribute('aria-label'))")
    assert found == [f"photo-01{i}.png" for i in range(10)]
    assert page.value("document.querySelector('#found').textContent").startswith("10 images in ")
    page.value("document.querySelector('#query').value = ''")
    page.type("label 2</b>")
    page.until("document.querySelector('#found').textContent.startsWith('20 images')")
    page.value("document.querySelector('#query').value = ''")
    page.type("no such thing")
    page.until("document.querySelector('#found').textContent.startsWith('No path')")
    assert page.value("document.querySelectorAll('.card').length") == 0
    page.key("Escape", 27)
    page.until("document.querySelectorAll('.card').length === 4")


def test_the_image_itself_is_shown_where_it_lies_and_neighbors_by_pixels(window: browser.Browser, photos: Path, tmp_path: Path) -> None:
    images = open_data(str(photos), DataSettings()).images
    made = pages.clustered(images)
    for originals in (quote(os.path.relpath(photos, tmp_path)) + "/", "nowhere/"):
        (tmp_path / "report.html").write_bytes(build(pages.page(images, made, looks=made.features, originals=originals)))
        window.open(tmp_path / "report.html")
        window.complaints.clear()
        window.value("document.querySelectorAll('#mosaic .tile')[0].click()")
        window.value("document.querySelector('.card .thumb').click()")
        assert window.value("document.querySelectorAll('#viewer-pixel-neighbors .thumb').length") == 8
        if originals != "nowhere/":
            window.until("!document.querySelector('#viewer-original').hidden")
            assert window.value("document.querySelector('#viewer-original').naturalWidth") == 48
            assert window.complaints == []
        else:
            window.frames(10)
            assert window.value("document.querySelector('#viewer-original').hidden")
            assert not any("Content Security Policy" in complaint for complaint in window.complaints)


def test_arrows_move_within_a_row_of_images(page: browser.Browser) -> None:
    page.value("document.querySelector('.card .thumb').focus()")
    page.key("ArrowRight", 39)
    assert page.value("[...document.activeElement.parentNode.children].indexOf(document.activeElement)") == 1
    assert page.value("document.querySelectorAll('.card .strip')[0].querySelectorAll('[tabindex=\"0\"]').length") == 1


def test_every_control_has_an_accessible_name(page: browser.Browser) -> None:
    page.click(".card .thumb")  # the dialog too
    nameless = page.value(
        "[...document.querySelectorAll('button, input, select, [role=img], [role=group], [role=application], nav, dialog')].filter(e =>"
        "!(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML)"
    )
    assert nameless == []
    missing = "[...document.querySelectorAll('[aria-labelledby]')].filter(e => !document.getElementById(e.getAttribute('aria-labelledby')))"
    assert page.value(f"{missing}.length") == 0
    assert page.value("document.querySelectorAll('section:not([aria-labelledby])').length") == 0
    assert page.value("document.documentElement.lang") == "en"
    assert page.value("document.querySelectorAll('main, header, footer, h1').length") == 4
    assert page.value("document.querySelectorAll('#map table tbody tr').length") == 4


AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"


@pytest.mark.skipif(not AXE.is_file(), reason="needs axe-core: npm install --no-save axe-core")
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light")])
def test_axe_finds_nothing(width: int, scheme: str, page: browser.Browser) -> None:
    page.size(width, 900)
    page.colors(scheme)
    page.value(f"{AXE.read_text('utf-8')}; 1")
    for opens in ("1", "document.querySelector('.card .thumb').click()"):  # the page, and the dialog
        page.value(opens)
        found = page.value(
            "axe.run(document).then(r => ({passed: r.passes.length, wrong: r.violations.map(v => [v.id, v.impact, v.nodes[0].html])}))"
        )
        assert found["passed"] > 10
        assert found["wrong"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_mode_follows_the_system_and_the_switch(scheme: str, page: browser.Browser) -> None:
    page.colors(scheme)
    page.frames()
    assert (page.pixels()[-5:, :5].mean() < 100) == (scheme == "dark")
    page.click("#theme")
    page.frames()
    assert (page.pixels()[-5:, :5].mean() < 100) == (scheme == "light")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1440, 900)])
def test_nothing_is_wider_than_the_window(width: int, height: int, page: browser.Browser) -> None:
    page.size(width, height)
    page.frames()
    assert page.value("document.documentElement.scrollWidth") <= width


def test_prototypes_are_shown(page: browser.Browser) -> None:
    galleries = page.value(
        "[...document.querySelectorAll('#prototype-galleries > div')].map(e => [e.textContent, e.querySelectorAll('.thumb').length])"
    )
    assert galleries == [["Prototype 1 · nearest to 40 images", 3], ["Prototype 6 · nearest to 21 images", 3]]


def test_copies_are_shown_with_the_one_to_keep(page: browser.Browser, photos: Path, tmp_path: Path) -> None:
    words = page.value("[...document.querySelectorAll('#copy-groups .words')].map(e => [...e.children].map(c => c.textContent))")
    bytes_of = {name: max(1, round((photos / name).stat().st_size / 1e3)) for name in ("photo-009.png", "photo-copy.png")}
    assert sorted(text[1] for text in words) == sorted(bytes_of)
    assert sorted(text[0] for text in words) == ["exact", "keep"]
    assert all(text[2] == f"48 × 48, {bytes_of[text[1]]} kB" for text in words)
    rows = page.exported(tmp_path / "copies", "#export-copies")
    assert {row["advice"]: row["path"] for row in rows} == {"keep": "photo-009.png", "copy": "photo-copy.png"}


def test_outliers_are_shown_and_exported(page: browser.Browser, tmp_path: Path) -> None:
    shown = page.value("[...document.querySelectorAll('#outliers-photos .thumb')].map(e => e.getAttribute('aria-label'))")
    assert len(shown) == 1
    rows = page.exported(tmp_path / "outliers", "#export-strays")
    assert [(row["kind"], row["path"].replace("'", "")) for row in rows] == [("outlier", shown[0].replace("'", ""))]


def test_on_paper_every_thumbnail_is_a_picture_of_its_own(page: browser.Browser) -> None:
    shown = "[...document.querySelectorAll('.thumb, .photo')].filter(e => e.offsetParent).map(e => e.style.backgroundImage.slice(5, 9))"
    page.until("document.images.length >= 0 && document.querySelectorAll('.card .thumb').length > 0")
    page.frames(10)
    assert set(page.value(shown)) == {"blob"}
    page.value("window.dispatchEvent(new Event('beforeprint'))")
    assert set(page.value(shown)) == {"data"}
    assert page.value("[...document.querySelectorAll('details.fold')].every(e => e.open)")
    page.value("window.dispatchEvent(new Event('afterprint'))")
    assert set(page.value(shown)) == {"blob"}


def test_curves_can_be_read(page: browser.Browser) -> None:
    assert page.value("document.querySelector('.curve svg').getAttribute('aria-label')").startswith("Loss: from 2.08 to 1.62")
    x, y = page.middle_of(".curve svg")
    page.move(x, y)
    page.until("document.querySelector('.curve .now').textContent.endsWith(' at step 100')")
