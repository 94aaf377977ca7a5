"""The page in Firefox: it loads without errors, and what differs between browsers works: storage, the dialog, the canvas, the mouse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import firefox

pytestmark = pytest.mark.skipif(firefox.FIREFOX is None, reason="needs firefox")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[firefox.Firefox]:
    with firefox.firefox(tmp_path_factory.mktemp("profile")) as window:
        window.size(1440, 900)
        yield window


@pytest.fixture
def page(window: firefox.Firefox, file: Path) -> Iterator[firefox.Firefox]:
    window.open(file)
    window.value("localStorage.clear()")
    window.open(file)
    yield window
    assert window.complaints == []


def test_it_shows_mosaic_cards_and_thumbnails(page: firefox.Firefox) -> None:
    assert page.value("document.querySelectorAll('#mosaic .tile').length") == 4
    assert page.value("document.querySelectorAll('.card').length") == 4
    page.middle_of(".card .thumb")
    page.until("getComputedStyle(document.querySelector('.card .thumb')).backgroundImage.includes('blob:')")


def test_a_name_is_typed_and_stored(page: firefox.Firefox, file: Path) -> None:
    page.click(".card .name")
    page.type("cats")
    page.open(file)
    assert page.value("document.querySelector('.card .name').value") == "cats"


def test_the_dialog_opens_and_closes(page: firefox.Firefox) -> None:
    page.click(".card .thumb")
    page.until("document.querySelector('#viewer').open")
    assert page.value("document.querySelectorAll('#viewer-neighbors .thumb').length") == 8
    page.click("#close")
    assert not page.value("document.querySelector('#viewer').open")


def test_search_finds_paths(page: firefox.Firefox) -> None:
    page.click("#query")
    page.type("photo-01")
    page.until("document.querySelector('#found').textContent.startsWith('10 images')")


def test_images_on_the_map_are_drawn_and_selected(page: firefox.Firefox) -> None:
    page.until(
        "(c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size > 4)(document.querySelector('#canvas'))"
    )
    page.click("#lasso")
    x, y = page.middle_of("#canvas")
    page.drag((x - 500, y - 300), (x + 500, y - 300), (x + 500, y + 300), (x - 500, y + 300))
    number = page.value("parseInt(document.querySelector('#n-selected').textContent)")
    assert number > 50
    page.click("#make-cluster")
    page.until(f"[...document.querySelectorAll('.card .size')].some(e => parseInt(e.textContent) === {number})")


def test_a_cut_is_coarser(page: firefox.Firefox) -> None:
    page.value("(s => { s.value = 2; s.dispatchEvent(new Event('input')); })(document.querySelector('#cut'))")
    assert page.value("document.querySelectorAll('.card').length") == 2
