"""Facts about the images for the recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from selfcluster.data.inspect import look_at
from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.sources import open_data
from selfcluster.errors import DataError
from selfcluster.settings.config import DataSettings
from selfcluster.settings.recipe import is_glyph
from tests import tiny

CPU = torch.device("cpu")


def test_facts_of_the_digits() -> None:
    images = open_data("digits", DataSettings()).images
    facts = look_at(images, len(images), CPU)
    assert (facts.n, facts.short_side, facts.is_grey) == (1797, 32, True)
    assert is_glyph(facts)


def test_color_is_seen_and_grey_photos_are_no_glyphs() -> None:
    color = tiny.images(40)
    assert not look_at(ArrayImages(color), 40, CPU).is_grey
    grey = look_at(ArrayImages(color.mean(axis=3).astype(np.uint8)), 40, CPU)
    assert grey.is_grey
    assert not is_glyph(grey)


def test_fashion_is_grey_but_no_glyph(shared_data: Path) -> None:
    import lzma

    with lzma.open(shared_data / "fashion-mnist" / "x_train.npy.xz") as file:
        images = np.load(file)[:2000]
    facts = look_at(ArrayImages(images), 60_000, CPU)
    assert facts.is_grey
    assert not is_glyph(facts)


def test_a_folder_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    images = open_data(str(tmp_path), DataSettings()).images
    with pytest.raises(DataError, match=r"none of 1 sampled images can be read \(first: 'a.jpg'\)"):
        look_at(images, 1, CPU)
