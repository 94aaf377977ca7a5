"""One row per image, in the order of the index, without changing the encoder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from selfcluster.data.crops import normalize, resize_center
from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import ArrayImages, Images
from selfcluster.models.features import extract_features, prepared_images, raw_pixels

CPU = torch.device("cpu")
N, BROKEN = 7, 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FolderImages:
    """Noise of several sizes; number 2 is truncated."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(N):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (12 + index, 10, 3), dtype=np.uint8)).save(content, "png")
        whole = content.getvalue()
        (root / f"{index}.png").write_bytes(whole[: len(whole) // 2] if index == BROKEN else whole)
    return FolderImages(root)


@pytest.fixture
def encoder() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network[1].running_mean.uniform_(-0.1, 0.1)
    return network


def one_by_one(encoder: nn.Module, images: Images, index: list[int]) -> Tensor:
    """The features by a plain loop in eval mode."""
    encoder.eval()
    with torch.no_grad():
        return torch.cat([encoder(normalize(resize_center(images.decode(image).pixels, 8)[None])) for image in index])


def test_rows_are_in_the_order_of_the_index(photos: FolderImages, encoder: nn.Module) -> None:
    index = [6, 0, 3, 3, 5]
    features = extract_features(encoder, photos, index=np.array(index), pixels=8, device=CPU, batch=2)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features, one_by_one(encoder, photos, index))


def test_rows_of_unreadable_images_are_nan_and_no_others(photos: FolderImages, encoder: nn.Module) -> None:
    features = extract_features(encoder, photos, pixels=8, device=CPU, batch=3)
    readable = [image for image in range(N) if image != BROKEN]
    assert features[BROKEN].isnan().all()
    torch.testing.assert_close(features[readable], one_by_one(encoder, photos, readable))


def test_workers_change_nothing(photos: FolderImages, encoder: nn.Module) -> None:
    here, there = (extract_features(encoder, photos, pixels=8, device=CPU, batch=3, workers=workers) for workers in (0, 2))
    assert torch.equal(here.nan_to_num(9), there.nan_to_num(9))


@pytest.mark.parametrize("shape", [(6, 9, 12), (6, 9, 12, 3), (6, 8, 8, 1)])
def test_images_in_memory_are_prepared_like_any_others(encoder: nn.Module, shape: tuple[int, ...]) -> None:
    images = ArrayImages(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    features = extract_features(encoder, images, index=np.array([5, 1, 2]), pixels=8, device=CPU, batch=2)
    torch.testing.assert_close(features, one_by_one(encoder, images, [5, 1, 2]))


def test_the_encoder_is_left_as_it_was(photos: FolderImages, encoder: nn.Module) -> None:
    encoder.train()
    encoder[1].eval()  # frozen statistics in a network that trains
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    extract_features(encoder, photos, pixels=8, device=CPU)
    assert [part.training for part in encoder] == [True, False, True, True, True, True]
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    encoder.eval()
    extract_features(encoder, photos, pixels=8, device=CPU)
    assert not any(part.training for part in encoder.modules())


def test_the_mode_is_restored_after_an_error(photos: FolderImages, encoder: nn.Module) -> None:
    broken = nn.Sequential(encoder, nn.Linear(99, 2)).train()
    with pytest.raises(RuntimeError, match="shapes"):
        extract_features(broken, photos, pixels=8, device=CPU)
    assert all(part.training for part in broken.modules())


def test_images_are_resized_with_the_given_interpolation(photos: FolderImages) -> None:
    in_memory = ArrayImages(np.random.default_rng(0).integers(0, 256, (6, 9, 12, 3), dtype=np.uint8))
    for images in (photos, in_memory):
        features = extract_features(lambda x: x.flatten(1), images, index=np.array([4]), pixels=8, interpolation="bicubic", device=CPU)
        wanted = resize_center(images.decode(4).pixels, 8, "bicubic")
        assert not torch.equal(wanted, resize_center(images.decode(4).pixels, 8))
        torch.testing.assert_close(features[0], normalize(wanted[None]).flatten())


def test_a_plain_function_is_an_encoder_too(photos: FolderImages) -> None:
    features = extract_features(lambda x: x.flatten(1), photos, index=np.array([4]), pixels=8, device=CPU)
    torch.testing.assert_close(features[0], normalize(resize_center(photos.decode(4).pixels, 8)[None]).flatten())


def test_bf16_returns_similar_float32_rows(photos: FolderImages, encoder: nn.Module) -> None:
    exact, coarse = (
        extract_features(encoder, photos, index=np.array([0, 1]), pixels=8, device=CPU, precision=precision)
        for precision in (torch.float32, torch.bfloat16)
    )
    assert coarse.dtype == torch.float32
    assert not torch.equal(exact, coarse)
    torch.testing.assert_close(exact, coarse, rtol=0.03, atol=0.03)


def test_raw_pixels_are_the_prepared_images_from_0_to_1(photos: FolderImages) -> None:
    rows = raw_pixels(photos, index=np.array([6, BROKEN, 1]), pixels=8)
    assert rows.shape == (3, 3 * 8 * 8)
    torch.testing.assert_close(rows[0], resize_center(photos.decode(6).pixels, 8).flatten().float() / 255)
    torch.testing.assert_close(rows[2], resize_center(photos.decode(1).pixels, 8).flatten().float() / 255)
    assert rows[1].isnan().all()
    assert rows[0].max() <= 1


def test_the_last_part_holds_what_is_left(photos: FolderImages) -> None:
    parts = list(prepared_images(photos, pixels=8, batch=3))
    assert [(tuple(prepared.shape), prepared.dtype) for prepared, _ in parts] == [((n, 3, 8, 8), torch.uint8) for n in (3, 3, 1)]
    assert torch.cat([readable for _, readable in parts]).tolist() == [image != BROKEN for image in range(N)]


def test_awkward_files_have_features_or_nan(shared_data: Path) -> None:
    images = FolderImages(shared_data / "awkward")
    rows = raw_pixels(images, pixels=8)
    unreadable = {images.path(row) for row in rows.isnan().any(dim=1).nonzero().flatten().tolist()}
    assert unreadable == {"bomb_120mp.png", "empty.jpg", "notes.jpg", "truncated.jpg"}
