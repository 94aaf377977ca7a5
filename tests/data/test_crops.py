"""Crops: cut and varied as their parameters say."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from selfcluster.data.crop_parameters import resolve_boxes
from selfcluster.data.crops import MultiCrop, normalize, resize_center
from selfcluster.data.readers.images import Decoded
from selfcluster.device import in_threads
from selfcluster.errors import ConfigError
from selfcluster.settings.config import AUGMENTATIONS, AugmentSettings, Interpolation

PLAIN = AugmentSettings(flip=0, jitter=0, grey=0, blur=0)
MANY = 4000


def _images(n: int = 4, channels: int = 3, h: int = 40, w: int = 50) -> Tensor:
    """Smooth, as photos are, so that a grey level in a pixel stays one."""
    coarse = torch.rand(n, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def _decoded(images: Iterable[Tensor]) -> list[Decoded]:
    return [Decoded.whole(image) for image in images]


def _grey_levels(crops: list[Tensor]) -> list[Tensor]:
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return [(crop * deviation + mean) * 255 for crop in crops]


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_come_in_order_and_shape(channels: int) -> None:
    crops = MultiCrop((2, 3), (16, 8))(_images(channels=channels), np.arange(4), seed=0, epoch=0)
    assert [tuple(crop.shape) for crop in crops] == [(4, 3, 16, 16)] * 2 + [(4, 3, 8, 8)] * 3
    assert all(crop.dtype == torch.float32 for crop in crops)
    assert all(torch.isfinite(crop).all() for crop in crops)


@pytest.mark.parametrize("augmentation", sorted(AUGMENTATIONS))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_crop_stays_in_range(augmentation: str, channels: int) -> None:
    crops = MultiCrop(augmentation=augmentation)(_images(channels=channels), np.arange(4), seed=0, epoch=0)
    for crop in _grey_levels(crops):
        assert crop.min() > -0.01
        assert crop.max() < 255.01
    assert len({tuple(crop[0].flatten()[:50].tolist()) for crop in crops}) == len(crops), "no two crops are alike"


def test_plain_crops_are_the_resized_boxes_of_their_image() -> None:
    images, crops = _images(), MultiCrop((2, 1), (16, 8), augmentation=PLAIN)
    drawn = crops.draw(np.arange(4), seed=0, epoch=0)
    levels = _grey_levels(crops.apply(images, drawn))
    for c, crop in enumerate(levels):
        boxes = resolve_boxes(drawn.of_crops(slice(c, c + 1)), torch.full((4,), 40), torch.full((4,), 50)).tolist()
        for b, (top, left, h, w) in enumerate(boxes):
            box = images[b : b + 1, :, top : top + h, left : left + w].float()
            expected = torch.nn.functional.interpolate(box, crop.shape[-2:], mode="bilinear", antialias=True, align_corners=False)[0]
            assert (crop[b] - expected).abs().max() < 0.51


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tensor_and_a_list_of_the_same_images_give_the_same_crops(channels: int) -> None:
    images, crops = _images(channels=channels), MultiCrop((2, 2), (24, 12))
    drawn = crops.draw(np.arange(4), seed=0, epoch=0)
    one_by_one = _decoded(images)
    for left, right in zip(crops.cut(images, drawn), crops.cut(one_by_one, drawn), strict=True):
        assert (left.int() - right.int()).abs().max() <= 1
        assert left.dtype == right.dtype == torch.uint8
    plain = MultiCrop((2, 2), (24, 12), augmentation=PLAIN)
    for left, right in zip(_grey_levels(plain.apply(images, drawn)), _grey_levels(plain.apply(one_by_one, drawn)), strict=True):
        assert (left - right).abs().max() < 1.01
    # Contrast and brightness may enlarge one grey level up to 1.8 times each.
    for left, right in zip(_grey_levels(crops.apply(images, drawn)), _grey_levels(crops.apply(one_by_one, drawn)), strict=True):
        assert (left - right).abs().mean() < 0.5


def test_large_images_in_memory_are_cut_as_small_ones_are() -> None:
    images, crops = _images(n=3, h=120, w=100), MultiCrop((2, 2), (24, 12))
    drawn = crops.draw(np.arange(3), seed=0, epoch=0)
    for left, right in zip(crops.cut(images, drawn), crops.cut(_decoded(images), drawn), strict=True):
        assert torch.equal(left, right)


def test_threads_change_nothing() -> None:
    images, crops, each = _decoded(_images(n=9)), MultiCrop((2, 2), (24, 12)), in_threads(3)
    drawn = crops.draw(np.arange(9), seed=0, epoch=0)
    for left, right in zip(crops.cut(images, drawn), crops.cut(images, drawn, each), strict=True):
        assert torch.equal(left, right)


def test_crops_varied_in_parts_equal_those_varied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    images, crops = _images(n=7), MultiCrop((2, 2), (24, 12))
    together = crops(images, np.arange(7), seed=0, epoch=0)
    monkeypatch.setattr("selfcluster.data.crops._CACHED", 3 * 3 * 24 * 24)
    for left, right in zip(together, crops(images, np.arange(7), seed=0, epoch=0), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


def test_no_crop_is_enlarged_more_than_from_the_whole_image() -> None:
    crops = MultiCrop((2, 6), (224, 96))
    drawn = crops.draw(np.arange(200), seed=0, epoch=0)
    shares = {}
    for height, width in ((300, 400), (1500, 2000), (6000, 4000), (3, 9000)):
        shares[height] = [crops.min_scale(drawn, image)(height, width) for image in range(200)]
        for image, share in enumerate(shares[height]):
            needed = []
            for which, n, side in ((slice(0, 2), 2, 224), (slice(2, 8), 6, 96)):
                boxes = resolve_boxes(drawn.of_image(which, image), torch.full((n,), height), torch.full((n,), width))
                needed.append(side / int(boxes[:, 2:].min()))
            assert share == min(1, max(needed)) or (share == 1 and max(needed) > 0.5)
            assert share <= crops.min_scale_of_any(height, width) <= 1
    assert min(shares[300]) == min(shares[3]) == 1
    assert max(shares[6000]) < 0.5
    assert crops.min_scale_of_any(6000, 4000) < 0.25


def test_crops_of_a_reduced_image_are_those_of_the_whole_one() -> None:
    whole = _images(n=4, h=400, w=320)
    half = [Decoded(resize(image, 200, 160), (400, 320)) for image in whole]
    crops = MultiCrop((2, 2), (24, 12), ((0.3, 1.0), (0.1, 0.3)), augmentation=PLAIN)
    drawn = crops.draw(np.arange(4), seed=0, epoch=0)
    for left, right in zip(crops.cut(_decoded(whole), drawn), crops.cut(half, drawn), strict=True):
        assert (left.int() - right.int()).abs().float().mean() < 2


def resize(image: Tensor, height: int, width: int) -> Tensor:
    return torch.nn.functional.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]


def test_images_of_different_sizes_and_channels_make_one_batch() -> None:
    images = _decoded([_images(1, 3, 40, 50)[0], _images(1, 1, 9, 200)[0], _images(1, 3, 1, 1)[0]])
    crops = MultiCrop((2, 2), (24, 12))
    together = crops(images, [5, 6, 7], seed=0, epoch=0)
    assert [tuple(crop.shape) for crop in together] == [(3, 3, 24, 24)] * 2 + [(3, 3, 12, 12)] * 2
    alone = crops(images[1:2], [6], seed=0, epoch=0)
    for one, three in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], three[1], rtol=0, atol=1e-5)


def test_each_operation_is_applied_where_it_was_drawn() -> None:
    images = _images(n=64)
    drawn = MultiCrop((1,), (16,), ((0.14, 1.0),)).draw(np.arange(64), seed=0, epoch=0)

    def levels(**settings: object) -> Tensor:
        given = AugmentSettings(**{**vars(PLAIN), **settings})  # type: ignore[arg-type]
        return _grey_levels(MultiCrop((1,), (16,), ((0.14, 1.0),), given).apply(images, drawn))[0]

    plain = levels()
    flipped = levels(flip=0.5)
    torch.testing.assert_close(flipped, torch.where(drawn.flip[0][:, None, None, None], plain.flip(-1), plain))
    for name, flag in (("jitter", drawn.jitter[0]), ("grey", drawn.grey[0]), ("blur", drawn.blur[0])):
        changed = (levels(**{name: 0.5}) - plain).flatten(1).abs().amax(dim=1) > 1e-2
        assert torch.equal(changed, flag), name


def test_jitter_runs_in_the_order_drawn() -> None:
    from selfcluster.data import augment

    images = _images(n=24)
    crops = MultiCrop((1,), (16,), ((0.14, 1.0),), AugmentSettings(flip=0, jitter=1, grey=0, blur=0))
    drawn = crops.draw(np.arange(24), seed=0, epoch=0)
    x = MultiCrop((1,), (16,), ((0.14, 1.0),), PLAIN).apply(images, drawn)[0]
    x = (_grey_levels([x])[0] / 255).clamp(0, 1)
    names = ("brightness", "contrast", "saturation", "hue")
    expected = []
    for b in range(24):
        one = x[b : b + 1].clone()
        for which in drawn.order[0, b].tolist():
            one = getattr(augment, f"adjust_{names[which]}_")(one, getattr(drawn, names[which])[0, b : b + 1])
        expected.append(one)
    torch.testing.assert_close(_grey_levels(crops.apply(images, drawn))[0] / 255, torch.cat(expected), rtol=0, atol=1e-4)


def test_crops_are_in_units_of_imagenets_deviation() -> None:
    white = MultiCrop(augmentation=PLAIN)(torch.full((1, 3, 20, 20), 255, dtype=torch.uint8), [0], seed=0, epoch=0)
    for crop in white:
        torch.testing.assert_close(crop[0, :, 3, 3], torch.tensor([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))
    black = normalize(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    torch.testing.assert_close(black[0, :, 0, 0], torch.tensor([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225]))


@pytest.mark.parametrize(("h", "w"), [(40, 40), (40, 80), (80, 40), (5, 7), (1, 90), (20, 20)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_center(channels: int, h: int, w: int) -> None:
    image = _images(1, channels, h, w)[0]
    center = resize_center(image, 20)
    assert center.shape == (3, 20, 20)
    assert center.dtype == torch.uint8
    if (h, w) == (20, 20):
        assert torch.equal(center, image.expand(3, -1, -1))


@pytest.mark.parametrize("side", [20, 90])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_center_interpolates_as_pillow(interpolation: Interpolation, side: int) -> None:
    image = _images(1, 3, 40, 40)[0]
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling[interpolation.upper()])
    difference = resize_center(image, side, interpolation).permute(1, 2, 0).int() - torch.from_numpy(np.array(pillow)).int()
    assert difference.abs().max() <= 1


def test_resize_center_takes_the_middle() -> None:
    image = torch.zeros(3, 10, 30, dtype=torch.uint8)
    image[..., 10:20] = 255
    assert (resize_center(image, 10) == 255).all()


def test_unknown_augmentation_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'photo'"):
        MultiCrop(augmentation="foto")


@pytest.mark.parametrize("given", [{"n_crops": (2,)}, {"crop_pixels": (32, 16, 8)}, {"area": ((0.1, 1.0),)}])
def test_every_size_needs_an_entry(given: dict) -> None:
    with pytest.raises(ValueError, match="one entry for each size"):
        MultiCrop(**given)


def test_parameters_of_other_images_are_refused() -> None:
    with pytest.raises((TypeCheckError, RuntimeError, IndexError)):
        MultiCrop().apply(_images(n=4), MultiCrop().draw(np.arange(5), seed=0, epoch=0))
