"""A file and its bytes are read, refused and reduced alike; what the pixels are is tested with the images of a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfcluster.data.readers.decoding import draft, opened, upright_pixels, upright_size
from selfcluster.errors import DataError


def outcome(file: Path | bytes, share: float = 1.0, max_megapixels: float = 100.0) -> object:
    """Size and pixels, or the reason why there are none."""
    try:
        with opened(file, max_megapixels) as image:
            size = upright_size(image)
            draft(image, share)
            return size, upright_pixels(image).tolist()
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_awkward_files_are_the_same_from_their_bytes(shared_data: Path, share: float) -> None:
    files = [file for file in sorted((shared_data / "awkward").iterdir()) if file.suffix not in (".tar", ".tsv", ".txt")]
    outcomes = [outcome(file, share) for file in files]
    assert len(files) == 18
    assert sum(isinstance(one, str) for one in outcomes) == 4
    for file, one in zip(files, outcomes, strict=True):
        assert outcome(file.read_bytes(), share) == one, file.name


def test_a_large_declared_size_is_refused_from_bytes_too(shared_data: Path) -> None:
    bomb = (shared_data / "awkward" / "bomb_120mp.png").read_bytes()
    assert outcome(bomb) == "declares 12000 x 10000 pixels, over the limit of 100 megapixels"
    assert "over the limit of 119 megapixels" in str(outcome(bomb, max_megapixels=119))


def test_a_jpeg_is_drafted_from_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400), "red").save(tmp_path / "a.jpg")
    with opened((tmp_path / "a.jpg").read_bytes(), 100) as image:
        assert upright_size(image) == (400, 800)
        draft(image, 0.2)
        assert upright_pixels(image).shape == (3, 100, 200)


@pytest.mark.parametrize("given", [lambda file: file, lambda file: file.read_bytes()], ids=["file", "bytes"])
def test_the_reason_names_no_folder_and_is_one_line(tmp_path: Path, given: Callable[[Path], Path | bytes]) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello\nworld")
    (tmp_path / "cut.jpg").write_bytes(os.urandom(10))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-40])
    reasons = {name: str(outcome(given(tmp_path / name))) for name in ("empty.png", "text.png", "cut.jpg", "cut.png")}
    assert reasons["empty.png"] == "is empty"
    assert reasons["text.png"] == reasons["cut.jpg"] == "is not an image"
    assert "truncated" in reasons["cut.png"]
    assert not any(str(tmp_path) in reason or "\n" in reason for reason in reasons.values())


def test_pixels_can_be_written_to() -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    pixels = upright_pixels(image)
    pixels[0] = 9
    assert image.getpixel((0, 0)) == (1, 2, 3)
    assert torch.equal(upright_pixels(image)[:, 0, 0], torch.tensor([1, 2, 3], dtype=torch.uint8))


def test_a_transparent_gray_value_of_16_bits_is_white(tmp_path: Path) -> None:
    values = np.array([[0, 1000], [1000, 40000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", transparency=1000)
    with opened(tmp_path / "a.png", 100) as image:
        assert image.info["transparency"] == 1000
        assert upright_pixels(image)[0].tolist() == [[0, 255], [255, round(40000 / 257)]]
