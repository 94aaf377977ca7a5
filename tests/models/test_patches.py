"""The encoder `patches`: fitted to images, then a network like any other."""

from __future__ import annotations

import pytest
import timm
import torch

import selfcluster.models
from selfcluster.errors import DataError
from selfcluster.models.patches import PatchEncoder, patches_pixels


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Two kinds of texture: horizontal and vertical stripes of random phase and color, with noise."""
    generator = torch.Generator().manual_seed(0)
    phase = torch.rand(120, 1, 1, generator=generator) * 6.28
    stripes = (torch.arange(24.0) * 1.3 + phase).sin()
    pictures = torch.where(
        torch.arange(120)[:, None, None] % 2 == 0, stripes.expand(-1, 24, -1), stripes.transpose(1, 2).expand(-1, -1, 24)
    )
    color = torch.rand(120, 3, 1, 1, generator=generator)
    noise = torch.randn(120, 3, 24, 24, generator=generator)
    return (128 + 60 * pictures[:, None] * color + 10 * noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def encoder(images: torch.Tensor) -> PatchEncoder:
    encoder = PatchEncoder(24, n_codes=64, n_features=16)
    encoder.fit(images)
    return encoder


def test_features_separate_textures(encoder: PatchEncoder, images: torch.Tensor) -> None:
    def agreement(rows: torch.Tensor) -> float:
        """Share of images whose nearest neighbor has the same texture."""
        unit = torch.nn.functional.normalize(rows)
        return float(((unit @ unit.T).fill_diagonal_(-1).argmax(dim=1) % 2 == torch.arange(120) % 2).float().mean())

    assert agreement(encoder(images / 255)) > 0.8


def test_an_image_and_its_mirror_image_have_the_same_features(encoder: PatchEncoder, images: torch.Tensor) -> None:
    features, mirrored = encoder(images / 255), encoder(images.flip(3) / 255)
    assert (features - mirrored).norm() < 0.02 * features.norm()


def test_features_are_centered_and_components_ordered(encoder: PatchEncoder, images: torch.Tensor) -> None:
    features = encoder(images / 255)
    assert features.mean(dim=0).abs().max() < 1e-3 * features.std()
    deviation = features.std(dim=0)
    assert (deviation.diff() < 0.02 * deviation[0]).all()


def test_a_batch_is_the_same_as_single_images(encoder: PatchEncoder, images: torch.Tensor) -> None:
    torch.testing.assert_close(
        encoder(images[:5] / 255), torch.cat([encoder(image[None] / 255) for image in images[:5]]), rtol=1e-4, atol=1e-5
    )


def test_the_fit_depends_on_images_and_seed_alone(encoder: PatchEncoder, images: torch.Tensor) -> None:
    again, other = PatchEncoder(24, n_codes=64, n_features=16), PatchEncoder(24, n_codes=64, n_features=16)
    torch.rand(1)
    again.fit(images)
    other.fit(images, seed=1)
    for name, found in encoder.named_buffers():
        torch.testing.assert_close(again.get_buffer(name), found, rtol=1e-4, atol=1e-5)
    assert (encoder.get_buffer("scales.0.entries") - other.get_buffer("scales.0.entries")).abs().mean() > 0.01


def test_grey_images_and_two_scales(images: torch.Tensor) -> None:
    grey = images[:, :1].expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    encoder = PatchEncoder(48, n_codes=32, n_features=16)
    encoder.fit(grey)
    assert len(encoder.scales) == 2
    assert encoder(grey[:3] / 255).isfinite().all()


def test_fewer_images_than_features_leave_the_others_zero(images: torch.Tensor) -> None:
    encoder = PatchEncoder(24, n_codes=16, n_features=16)
    encoder.fit(images[:9])
    features = encoder(images[:9] / 255)
    assert features[:, :8].abs().min() > 0
    assert not features[:, 8:].any()


def test_more_entries_than_patches_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"2 images have 722 patches, fewer than the 2,048 of the dictionary; lower --n-codes"):
        PatchEncoder(24, n_codes=2048).fit(images[:2])


@pytest.mark.parametrize(("short_side", "wanted"), [(8, 32), (27, 32), (28, 28), (33, 32), (45, 44), (64, 64), (500, 64)])
def test_images_are_seen_at_nearly_their_own_size(short_side: int, wanted: int) -> None:
    assert patches_pixels(short_side) == wanted


def test_timm_builds_it_by_name() -> None:
    assert selfcluster.models
    encoder = timm.create_model("patches", side=24, n_codes=64, n_features=16, num_classes=0, in_chans=3)
    assert isinstance(encoder, PatchEncoder)
    assert encoder.pretrained_cfg["std"] == (1.0, 1.0, 1.0)
