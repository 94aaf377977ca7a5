"""Thumbnails show their images, in the right place of a sheet."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from selfcluster.data.readers.images import ArrayImages
from selfcluster.reporting.thumbnails import cut_tiles, make_sheets, small_side
from tests import tiny


def _opened(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(float)


def test_every_image_has_a_small_thumbnail_and_some_a_large_one() -> None:
    images = ArrayImages(tiny.images(10, pixels=40))
    place = np.array([-1, 1, -1, 0, -1])
    tiles = cut_tiles(images, np.array([0, 2, 4, 6, 9]), place, side=16, large_side=40)
    assert tiles.small.shape == (5, 16, 16, 3)
    assert tiles.large.shape == (2, 40, 40, 3)
    np.testing.assert_array_equal(tiles.large[1], images.array[2])
    np.testing.assert_array_equal(tiles.large[0], images.array[6])
    for tile, index in zip(tiles.small, [0, 2, 4, 6, 9], strict=True):
        assert abs(tile.mean() - images.array[index].mean()) < 2
    assert tiles.n_unreadable == 0


def test_a_thumbnail_shows_the_central_square_in_three_channels() -> None:
    wide = np.zeros((1, 20, 60), dtype=np.uint8)
    wide[:, :, 20:40] = 200
    tiles = cut_tiles(ArrayImages(wide), np.array([0]), np.array([-1]), side=10, large_side=10)
    assert (tiles.small == 200).all()


def test_an_unreadable_image_is_gray_and_counted(tmp_path: Path) -> None:
    data = tiny.folder_of_images(tmp_path, n=4, broken=(2,))
    tiles = cut_tiles(data.images, np.arange(4), np.array([0, 1, 2, 3]), side=8, large_side=20, threads=2)
    assert tiles.n_unreadable == 1
    assert (tiles.small[2] == 128).all()
    assert tiles.large[0].std() > 10


def test_sheets_contain_the_thumbnails_row_by_row() -> None:
    tiles = np.zeros((23, 16, 16, 3), dtype=np.uint8)
    tiles += (np.arange(23, dtype=np.uint8) * 10)[:, None, None, None]
    made = make_sheets(tiles, columns=4, size="large")
    assert [Image.open(io.BytesIO(file)).size for file in made.files] == [(64, 64), (64, 32)]
    for i in range(23):
        sheet, within = divmod(i, 16)
        row, column = divmod(within, 4)
        tile = _opened(made.files[sheet])[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        assert abs(tile.mean() - 10 * i) < 4, i


def test_more_images_have_smaller_thumbnails() -> None:
    assert small_side(100) == small_side(50_000) > small_side(50_001)
