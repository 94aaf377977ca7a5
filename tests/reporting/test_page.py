"""The page in a headless browser: it loads without errors or network, and every control works."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from selfcluster.data.sources import open_data
from selfcluster.inference.names import read_names
from selfcluster.reporting.prototypes import PrototypeGalleries, PrototypeGallery
from selfcluster.reporting.render import build
from selfcluster.settings.config import DataSettings
from tests import browser, pages, tiny

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium")

MARKUP = "<img src=x onerror=alert(1)>.png"
AWKWARD = [MARKUP, "a\"b'c&amp;.png", "line\u2028end, and comma.png", "</script><script>alert(2)</script>.png"]
"""File names; a slash in one makes it a folder and a file."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(tiny.images(60, pixels=48)):
        name = AWKWARD[i] if i < len(AWKWARD) else f"photo-{i:03}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    Image.fromarray(tiny.images(60, pixels=48)[9]).save(folder / "photo-copy.png")
    return folder


@pytest.fixture(scope="module")
def file(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = open_data(str(photos), DataSettings()).images
    metrics = [
        {"step": 10.0 * i, "epoch": i // 5, "train/loss": 2.1 - i / 40, "train/lr": 0.1, "collapse/mean_embedding": 0.3}
        for i in range(1, 20)
    ]
    prototypes = PrototypeGalleries(8, 1, 2, (PrototypeGallery(1, 40, (0, 5, 9)), PrototypeGallery(6, 21, (3, 2, 1))))
    labels: list[str | None] = [f"<b>label {i % 3}</b>" for i in range(len(images))]
    made = pages.clustered(images, labels=labels)
    page = pages.page(images, made, name="<i>run</i>", where=str(photos), metrics=metrics, prototypes=prototypes)
    out = tmp_path_factory.mktemp("page") / "report.html"
    out.write_bytes(build(page))
    return out


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    with browser.chromium(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.fixture
def page(window: browser.Browser, file: Path) -> Iterator[browser.Browser]:
    """The page, freshly loaded at the size of a laptop, in light mode, with empty storage."""
    window.size(1440, 900)
    window.colors("light")
    window.open(file)
    window.value("localStorage.clear()")
    window.open(file)
    window.frames()
    yield window
    assert window.complaints == []
    assert window.requests == [file.resolve().as_uri()]


def _screen(window: browser.Browser, tmp_path: Path) -> np.ndarray:
    window.picture(tmp_path / "screen.png")
    return np.asarray(Image.open(tmp_path / "screen.png").convert("RGB")).astype(int)


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


def test_thumbnails_are_drawn(page: browser.Browser, photos: Path, tmp_path: Path) -> None:
    x, y = page.middle_of(".card .thumb")
    time.sleep(0.2)
    side = page.value("document.querySelector('.card .thumb').getBoundingClientRect().width") / 2 - 3
    part = _screen(page, tmp_path)[round(y - side) : round(y + side), round(x - side) : round(x + side)]
    # The image is the one that the label names.
    label = page.value("document.querySelector('.card .thumb').getAttribute('aria-label')")
    with Image.open(photos / label) as image:
        shown = np.asarray(image.resize(part.shape[1::-1])).astype(int)
    assert np.abs(part - shown).mean() < 12
    assert np.abs(part - shown[:, ::-1]).mean() > 20


def _colors_of_the_map(page: browser.Browser, tmp_path: Path) -> list[int]:
    """Return the number of pixels of each color of the map, most frequent first."""
    page.middle_of("#canvas")
    x, y, width, height = page.value(
        "(b => [b.x, b.y, b.width, b.height].map(Math.round))(document.querySelector('#canvas').getBoundingClientRect())"
    )
    part = _screen(page, tmp_path)[max(0, y) : y + height, x : x + width].reshape(-1, 3)
    return sorted(np.unique(part, axis=0, return_counts=True)[1].tolist(), reverse=True)


def test_the_map_is_drawn(page: browser.Browser, tmp_path: Path) -> None:
    dots = _colors_of_the_map(page, tmp_path)
    assert len(dots) > 5, "the background, four colors of clusters, and their rims"
    assert dots[1] > 50
    page.click("#dots")
    page.frames(10)
    assert _colors_of_the_map(page, tmp_path)[0] < dots[0] - 20_000


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


def test_neighbors_can_be_opened_in_turn(page: browser.Browser) -> None:
    page.click(".card .thumb")
    first = page.value("document.querySelector('#viewer-path').textContent")
    page.click("#viewer-neighbors .thumb")
    assert page.value("document.querySelector('#viewer-path').textContent") != first
    page.click("#back")
    assert page.value("document.querySelector('#viewer-path').textContent") == first
    page.key("Escape", 27)
    assert not page.value("document.querySelector('#viewer').open")


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


def _exported(page: browser.Browser, folder: Path, button: str = "#export") -> list[dict[str, str]]:
    folder.mkdir()
    page.downloads_to(folder)
    page.click(button)
    began = time.monotonic()
    while not (kept := list(folder.glob("*.csv"))):
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    with io.StringIO(kept[0].read_bytes().decode("utf-8"), newline="") as text:
        return list(csv.DictReader(text))


def test_a_name_is_stored_shown_and_exported(page: browser.Browser, file: Path, tmp_path: Path) -> None:
    name = 'cats, "big" <b>'
    page.click(".card .name")
    page.type(name)
    number = page.value("document.querySelector('.card .name').getAttribute('aria-label').split(' ').pop()")
    page.open(file)
    assert page.value("document.querySelector('.card .name').value") == name
    assert name in page.value("[...document.querySelectorAll('#focus option')].map(e => e.textContent)")
    rows = _exported(page, tmp_path / "names")
    assert len(rows) == 61
    assert set(AWKWARD) < {row["path"] for row in rows}
    size = page.value("parseInt(document.querySelector('.card .size').textContent)")
    assert [row["cluster"] for row in rows if row["name"] == name] == [number] * size
    assert {row["name"] for row in rows} == {name, ""}


def _cut(page: browser.Browser, k: int) -> None:
    page.value(
        f"(s => {{ s.value = {k}; for (const e of ['input', 'change']) s.dispatchEvent(new Event(e)); }})(document.querySelector('#cut'))"
    )


SIZES = "[...document.querySelectorAll('.card .size')].map(e => parseInt(e.textContent))"


def test_clusters_are_cut_coarser_and_split_and_the_page_remembers(page: browser.Browser, file: Path, tmp_path: Path) -> None:
    assert page.value("document.querySelector('#cut-n').textContent") == "4"
    assert page.value("document.querySelector('#cut').max") == "4"
    before = page.value(SIZES)
    page.click(".card .name")
    page.type("kept")
    _cut(page, 2)
    assert len(page.value(SIZES)) == 2
    assert sum(page.value(SIZES)) == 61
    rows = _exported(page, tmp_path / "two")
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
    _exported(page, tmp_path / "names")
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
def test_dark_mode_follows_the_system_and_the_switch(scheme: str, page: browser.Browser, tmp_path: Path) -> None:
    page.colors(scheme)
    page.frames()
    assert (_screen(page, tmp_path)[-5:, :5].mean() < 100) == (scheme == "dark")
    page.click("#theme")
    page.frames()
    assert (_screen(page, tmp_path)[-5:, :5].mean() < 100) == (scheme == "light")


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


def test_copies_are_shown_with_the_one_to_keep(page: browser.Browser, photos: Path, tmp_path: Path) -> None:
    words = page.value("[...document.querySelectorAll('#copy-groups .words')].map(e => [...e.children].map(c => c.textContent))")
    bytes_of = {name: max(1, round((photos / name).stat().st_size / 1e3)) for name in ("photo-009.png", "photo-copy.png")}
    assert sorted(text[1] for text in words) == sorted(bytes_of)
    assert sorted(text[0] for text in words) == ["exact", "keep"]
    assert all(text[2] == f"48 × 48, {bytes_of[text[1]]} kB" for text in words)
    rows = _exported(page, tmp_path / "copies", "#export-copies")
    assert {row["advice"]: row["path"] for row in rows} == {"keep": "photo-009.png", "copy": "photo-copy.png"}


def test_outliers_are_shown_and_exported(page: browser.Browser, tmp_path: Path) -> None:
    shown = page.value("[...document.querySelectorAll('#outliers-photos .thumb')].map(e => e.getAttribute('aria-label'))")
    assert len(shown) == 1
    rows = _exported(page, tmp_path / "outliers", "#export-strays")
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
