"""A page in a headless browser, for the tests of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from selfcluster.data.sources import open_data
from selfcluster.reporting.prototypes import PrototypeGalleries, PrototypeGallery
from selfcluster.reporting.render import build
from selfcluster.settings.config import DataSettings
from tests import browser, pages, tiny

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
