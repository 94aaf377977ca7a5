"""Each operation on a batch equals torchvision's of the same name, image by image."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from selfcluster.data import augment

CHANNELS = pytest.mark.parametrize("channels", [1, 3])


def _images(channels: int = 3, n: int = 5, h: int = 12, w: int = 9) -> Tensor:
    images = torch.rand(n, channels, h, w, generator=torch.Generator().manual_seed(0))
    images[0, :, :4] = images[0, :1, :4]  # some grey, some black and some white
    images[1, :, :3], images[1, :, 3:6] = 0, 1
    return images


def _in_place(operation: Callable[[Tensor, Tensor], Tensor], images: Tensor, parameters: Tensor) -> Tensor:
    changed = images.clone()
    assert operation(changed, parameters) is changed
    return changed


def _one_by_one(operation: Callable[[Tensor, float], Tensor], images: Tensor, parameters: Tensor) -> Tensor:
    return torch.stack([operation(image, float(parameter)) for image, parameter in zip(images, parameters, strict=True)])


@CHANNELS
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (augment.adjust_brightness_, vision.adjust_brightness),
        (augment.adjust_contrast_, vision.adjust_contrast),
        (augment.adjust_saturation_, vision.adjust_saturation),
    ],
)
def test_factors(ours, theirs, channels: int) -> None:
    images, factors = _images(channels), torch.tensor([0.0, 0.3, 1.0, 1.8, 3.0])
    torch.testing.assert_close(_in_place(ours, images, factors), _one_by_one(theirs, images, factors), rtol=0, atol=1e-5)


@CHANNELS
def test_hue(channels: int) -> None:
    images, shifts = _images(channels), torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.5])
    torch.testing.assert_close(
        _in_place(augment.adjust_hue_, images, shifts), _one_by_one(vision.adjust_hue, images, shifts), rtol=0, atol=1e-5
    )


def test_hue_rotates_pure_colors() -> None:
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].repeat(3, 1, 1, 1)
    turned = augment.adjust_hue_(red, torch.tensor([0.0, 1 / 3, -1 / 3]))[:, :, 0, 0]
    torch.testing.assert_close(turned, torch.eye(3), rtol=0, atol=1e-6)


@CHANNELS
def test_grey(channels: int) -> None:
    images = _images(channels)
    torch.testing.assert_close(augment.luma(images), vision.rgb_to_grayscale(images), rtol=0, atol=1e-6)


@CHANNELS
@pytest.mark.parametrize("radius", [1, 3, 6])
def test_blur(channels: int, radius: int) -> None:
    images, sigmas = _images(channels), torch.tensor([0.1, 0.4, 1.0, 1.7, 2.0])
    size = [2 * radius + 1] * 2
    expected = _one_by_one(lambda image, sigma: vision.gaussian_blur(image, size, [sigma, sigma]), images, sigmas)
    torch.testing.assert_close(augment.gaussian_blur(images, sigmas, radius=radius), expected, rtol=0, atol=1e-5)


def test_blur_of_images_smaller_than_its_kernel() -> None:
    images, sigma = _images(n=2, h=4, w=1), torch.tensor([1.0, 2.0])
    blurred = augment.gaussian_blur(images, sigma, radius=6)
    assert blurred.shape == images.shape
    torch.testing.assert_close(augment.gaussian_blur(torch.full((2, 3, 4, 1), 0.7), sigma, radius=6), torch.full((2, 3, 4, 1), 0.7))


@CHANNELS
@pytest.mark.parametrize("side", [4, 11, 24])
def test_crop_resize(channels: int, side: int) -> None:
    images = (_images(channels, n=6, h=20, w=17) * 255).round().to(torch.uint8)
    boxes = torch.tensor([[0, 0, 20, 17], [3, 2, 11, 11], [19, 16, 1, 1], [0, 5, 20, 2], [7, 0, 3, 17], [5, 5, 4, 4]])
    boxes = torch.stack([boxes, boxes.flip(0)])
    mirrored = torch.arange(12).view(2, 6) % 3 == 0
    ours = augment.crop_resize(images, boxes, side, mirrored=mirrored)
    assert ours.dtype == torch.uint8
    for crop in range(2):
        for image in range(6):
            expected = vision.resized_crop(images[image], *boxes[crop, image].tolist(), [side, side], antialias=True)
            expected = vision.horizontal_flip(expected) if mirrored[crop, image] else expected
            assert (ours[crop, image].int() - expected.int()).abs().max() <= 1


def test_crop_of_its_own_size_is_the_crop() -> None:
    images = (_images(n=2, h=20, w=17) * 255).to(torch.uint8)
    (cut,) = augment.crop_resize(images, torch.tensor([[[3, 2, 11, 11], [9, 6, 11, 11]]]), 11)
    assert torch.equal(cut[0], images[0, :, 3:14, 2:13])
    assert torch.equal(cut[1], images[1, :, 9:20, 6:17])


def _affine(images: Tensor, *, angle: float = 0, shear: float = 0, shift: tuple[float, float] = (0, 0), scale: float = 1) -> Tensor:
    each = torch.ones(len(images))
    return augment.affine(images, angle * each, shear * each, torch.tensor([shift] * len(images), dtype=torch.float32), scale * each)


@CHANNELS
def test_affine_rotates_clockwise(channels: int) -> None:
    images = _images(channels, n=2, h=8, w=8)
    torch.testing.assert_close(_affine(images, angle=90), images.rot90(-1, (2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(_affine(images), images, rtol=0, atol=1e-5)


def test_affine_shifts_right_and_down_and_repeats_the_edge() -> None:
    images = _images(n=2, h=8, w=8)
    moved = _affine(images, shift=(1 / 8, 2 / 8))
    torch.testing.assert_close(moved[:, :, 2:, 1:], images[:, :, :-2, :-1], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[:, :, 2:, 0], images[:, :, :-2, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(moved[:, :, 0, 1:], images[:, :, 0, :-1], rtol=0, atol=1e-5)


def test_affine_shears_rows_below_the_center_to_the_right() -> None:
    images = _images(n=2, h=9, w=9)
    sheared = _affine(images, shear=1)
    for y in range(9):
        source = (torch.arange(9) - (y - 4)).clamp(0, 8)
        torch.testing.assert_close(sheared[:, :, y], images[:, :, y, source], rtol=0, atol=1e-4)


def test_affine_enlarges_about_the_center() -> None:
    images = _images(n=2, h=9, w=9)
    torch.testing.assert_close(_affine(images, scale=2)[:, :, ::2, ::2], images[:, :, 2:7, 2:7], rtol=0, atol=1e-4)


def test_affine_shears_then_rotates_then_shifts() -> None:
    images = _images(n=2, h=9, w=9)
    step_by_step = _affine(_affine(_affine(images, shear=1), angle=90), shift=(2 / 9, 0))
    at_once = _affine(images, shear=1, angle=90, shift=(2 / 9, 0))
    torch.testing.assert_close(at_once[..., 2:], step_by_step[..., 2:], rtol=0, atol=1e-4)


def test_affine_gives_each_image_its_own_parameters() -> None:
    images, none = _images(n=2, h=8, w=8), torch.zeros(2)
    turned = augment.affine(images, torch.tensor([0.0, 90.0]), none, torch.zeros(2, 2), none + 1)
    torch.testing.assert_close(turned, torch.stack([images[0], images[1].rot90(-1, (1, 2))]), rtol=0, atol=1e-4)
