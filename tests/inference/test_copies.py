from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from selfcluster.clustering.duplicates import thumbnails
from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.sources import open_data
from selfcluster.inference.copies import find_copies
from selfcluster.settings.config import DataSettings


def photo(seed: int, side: int = 160) -> Image.Image:
    """A picture with structure of every size."""
    draw, pixels = np.random.default_rng(seed), np.zeros((side, side, 3))
    for coarse in (3, 6, 12, 24, 48):
        noise = Image.fromarray(draw.integers(0, 256, (coarse, coarse, 3), dtype=np.uint8))
        pixels += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) / 5
    return Image.fromarray(pixels.astype(np.uint8))


def found_in(folder: Path, features: torch.Tensor | None = None) -> dict[str, tuple[str, str | None]]:
    """Return for each copy its first image and its kind, with features that propose every pair."""
    images = open_data(str(folder), DataSettings(labels="none")).images
    pixels = [np.array(Image.open(folder / images.path(i)).convert("RGB").resize((64, 64))) for i in range(len(images))]
    looks = thumbnails(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float())
    features = torch.ones(len(images), 3) if features is None else features
    copies = find_copies(images, np.arange(len(images)), features, looks, threads=2)
    return {images.path(i): (images.path(first), copies.kinds[i]) for i, first in enumerate(copies.first.tolist()) if first >= 0}


def test_every_kind_of_copy_is_found_and_named(tmp_path: Path) -> None:
    for seed in range(6):
        photo(seed).save(tmp_path / f"{seed}.png")
    photo(0).save(tmp_path / "exact.png")
    photo(1).resize((100, 100)).save(tmp_path / "resized.png")
    photo(2).save(tmp_path / "saved.jpg", quality=70)
    ImageOps.mirror(photo(3)).save(tmp_path / "turned.png")
    photo(4).crop((8, 0, 160, 152)).save(tmp_path / "cut.png")
    assert found_in(tmp_path) == {
        "exact.png": ("0.png", "exact"),
        "resized.png": ("1.png", "resized"),
        "saved.jpg": ("2.png", "saved again"),
        "turned.png": ("3.png", "mirrored"),
        "cut.png": ("4.png", "cropped"),
    }


def test_many_copies_of_one_file_all_point_at_the_first(tmp_path: Path) -> None:
    for number in range(30):
        photo(0).save(tmp_path / f"a{number:02}.png")
    photo(0).resize((120, 120)).save(tmp_path / "b.png")
    photo(1).save(tmp_path / "c.png")
    copies = found_in(tmp_path)
    assert {name: first for name, (first, _) in copies.items()} == {
        **{f"a{number:02}.png": "a00.png" for number in range(1, 30)},
        "b.png": "a00.png",
    }
    assert [kind for _, kind in copies.values()] == ["exact"] * 29 + ["resized"]


def test_skies_are_no_copies_unless_the_file_is_the_same(tmp_path: Path) -> None:
    sky = np.linspace(120, 200, 96)[:, None, None].repeat(96, 1).repeat(3, 2)
    for seed in range(4):
        grain = np.random.default_rng(seed).normal(0, 0.5, sky.shape)
        Image.fromarray((sky + grain).astype(np.uint8)).save(tmp_path / f"{seed}.png")
    (tmp_path / "same.png").write_bytes((tmp_path / "2.png").read_bytes())
    assert found_in(tmp_path) == {"same.png": ("2.png", "exact")}


def test_images_far_from_each_other_in_features_are_not_compared(tmp_path: Path) -> None:
    photo(0).save(tmp_path / "a.png")
    photo(0).resize((120, 120)).save(tmp_path / "b.png")
    assert not found_in(tmp_path, torch.eye(2))


def test_arrays_have_copies_too() -> None:
    array = np.stack([np.asarray(photo(seed)) for seed in (0, 1, 0)])
    looks = thumbnails(torch.from_numpy(array).permute(0, 3, 1, 2).float())
    found = find_copies(ArrayImages(array), np.arange(3), torch.ones(3, 2), looks, threads=1)
    assert (found.first.tolist(), found.kinds) == ([-1, -1, 0], (None, None, "exact"))


def test_an_image_that_is_gone_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b", "c"):
        photo(0).save(tmp_path / f"{name}.png")
    images = open_data(str(tmp_path), DataSettings(labels="none")).images
    (tmp_path / "b.png").unlink()
    with caplog.at_level("WARNING", "selfcluster"):
        copies = find_copies(images, np.arange(3), torch.ones(3, 2), torch.ones(3, thumbnails.width), threads=1)
    assert copies.first.tolist() == [-1, -1, 0]
    assert "1 images can no longer be read" in caplog.text
