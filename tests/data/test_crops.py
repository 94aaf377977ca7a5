from __future__ import annotations

import pickle
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from selfcluster.data.crops import DEVIATION, MEAN, CropParameters, MultiCrop, normalize, resize_center, resolve_boxes
from selfcluster.data.readers.images import Decoded
from selfcluster.device import in_threads
from selfcluster.errors import ConfigError
from selfcluster.settings.config import AUGMENTATIONS, AugmentSettings

PLAIN = AugmentSettings(flip=0, jitter=0, grey=0, blur=0)
MANY = 4000


def _images(n: int = 4, channels: int = 3, h: int = 40, w: int = 50) -> Tensor:
    """Smooth, as photos are, so that a grey level in a pixel stays one."""
    coarse = torch.rand(n, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 1) * 255).round().to(torch.uint8)


def _decoded(images: Iterable[Tensor]) -> list[Decoded]:
    return [Decoded.whole(image) for image in images]


def _same(left: CropParameters, right: CropParameters) -> bool:
    return all(torch.equal(x, getattr(right, name)) for name, x in vars(left).items())


def _grey_levels(crops: list[Tensor]) -> list[Tensor]:
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
    return [(crop * deviation + mean) * 255 for crop in crops]


# ---- what is drawn ------------------------------------------------------------------------------------------------------------


def test_draw_is_the_same_in_any_batch() -> None:
    crops, index = MultiCrop(), np.array([3, 99, 12, 4])
    occurrence = np.array([0, 1, 0, 2])
    together = crops.draw(index, seed=1, epoch=2, occurrence=occurrence)
    assert _same(together, crops.draw(index, seed=1, epoch=2, occurrence=occurrence))
    backwards = crops.draw(index[::-1], seed=1, epoch=2, occurrence=occurrence[::-1])
    for i in range(4):
        one = crops.draw(index[i : i + 1], seed=1, epoch=2, occurrence=occurrence[i : i + 1])
        for name, x in vars(together).items():
            assert torch.equal(getattr(one, name)[:, 0], x[:, i])
            assert torch.equal(getattr(backwards, name)[:, 3 - i], x[:, i])


@pytest.mark.parametrize("change", [{"seed": 2}, {"epoch": 3}, {"occurrence": 1}, {"index": np.arange(100, 300)}])
def test_each_part_of_the_key_changes_what_is_drawn(change: dict) -> None:
    key = {"index": np.arange(200), "seed": 1, "epoch": 2, "occurrence": 0}
    crops = MultiCrop((6,), (16,), ((0.14, 1.0),))
    left, right = crops.draw(**key), crops.draw(**key | change)  # type: ignore[arg-type]
    for name in ("area", "ratio", "position", "brightness", "contrast", "hue", "sigma"):
        ours, theirs = (getattr(drawn, name).flatten() for drawn in (left, right))
        assert (ours == theirs).float().mean() < 0.01, name
        assert abs(np.corrcoef(ours, theirs)[0, 1]) < 4 / np.sqrt(len(ours)), name


def test_each_crop_of_an_image_is_drawn_on_its_own() -> None:
    drawn = MultiCrop((3, 3)).draw(np.arange(2000), seed=0, epoch=0)
    limit = 4 / np.sqrt(2000)
    for name in ("brightness", "hue", "sigma"):
        off_diagonal = np.corrcoef(getattr(drawn, name).numpy()) - np.eye(6)
        assert np.abs(off_diagonal).max() < limit


def test_strengths_of_one_operation_leave_the_draws_of_others() -> None:
    left = MultiCrop(augmentation="photo").draw(np.arange(5), seed=0, epoch=0)
    right = MultiCrop(augmentation=AugmentSettings(brightness=0.1, flip=0.9)).draw(np.arange(5), seed=0, epoch=0)
    assert torch.equal(left.area, right.area)
    assert torch.equal(left.hue, right.hue)
    assert torch.equal(left.sigma, right.sigma)


def _is_uniform(x: Tensor, low: float, high: float) -> bool:
    values = x.flatten().double().numpy()
    inside = values.min() >= low - 1e-6 and values.max() <= high + 1e-6
    return bool(inside and stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 1e-4)


def test_geometry_follows_the_recipe() -> None:
    drawn = MultiCrop((1, 1)).draw(np.arange(MANY), seed=0, epoch=0)
    assert _is_uniform(drawn.area[0], 0.14, 1.0)
    assert _is_uniform(drawn.area[1], 0.05, 0.14)
    assert _is_uniform(drawn.ratio.log(), np.log(3 / 4), np.log(4 / 3))
    assert _is_uniform(drawn.position[..., 0], 0, 1)
    assert _is_uniform(drawn.position[..., 1], 0, 1)


def test_colors_follow_the_recipe() -> None:
    drawn = MultiCrop((1, 1)).draw(np.arange(MANY), seed=0, epoch=0)
    for factor in (drawn.brightness, drawn.contrast, drawn.saturation):
        assert _is_uniform(factor, 0.2, 1.8)
    assert _is_uniform(drawn.hue, -0.2, 0.2)
    assert _is_uniform(drawn.sigma, 0.1, 2.0)
    n = 2 * MANY
    for name, probability in {"flip": 0.5, "jitter": 0.8, "grey": 0.2, "blur": 0.5}.items():
        assert stats.binomtest(int(getattr(drawn, name).sum()), n, probability).pvalue > 1e-4, name
    orders, counts = drawn.order.flatten(0, 1).unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_glyphs_are_turned_and_shifted_instead() -> None:
    drawn = MultiCrop((1, 1), augmentation="glyph").draw(np.arange(MANY), seed=0, epoch=0)
    assert not drawn.flip.any()
    assert not drawn.blur.any()
    assert not drawn.grey.any()
    assert _is_uniform(drawn.angle, -12, 12)
    assert _is_uniform(drawn.shear, -0.2, 0.2)
    assert _is_uniform(drawn.shift, -0.08, 0.08)
    assert _is_uniform(drawn.brightness, 0.6, 1.4)
    assert (drawn.scale == 1).all()


def test_factors_never_go_below_zero() -> None:
    drawn = MultiCrop((1, 1), augmentation=AugmentSettings(brightness=2.0)).draw(np.arange(MANY), seed=0, epoch=0)
    assert _is_uniform(drawn.brightness, 0, 3)


# ---- where the boxes lie ------------------------------------------------------------------------------------------------------


def _boxes(height: int, width: int, n: int, area: tuple[float, float] = (0.14, 1.0)) -> Tensor:
    p = MultiCrop((1,), (32,), (area,)).draw(np.arange(n), seed=0, epoch=0).of_crops(slice(0, 1))
    return resolve_boxes(p, torch.full((n,), height), torch.full((n,), width))


@pytest.mark.parametrize(("height", "width", "area"), [(37, 53, (0.14, 1.0)), (64, 64, (0.05, 0.14)), (30, 90, (0.5, 1.0))])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, area: tuple[float, float]) -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, list(area), [3 / 4, 4 / 3]) for _ in range(MANY)], dtype=float)
    ours = _boxes(height, width, MANY, area).double().numpy()
    for column, name in enumerate(("top", "left", "height", "width")):
        left, right = ours[:, column], theirs[:, column]
        error = np.sqrt((left.var() + right.var()) / MANY)
        assert abs(left.mean() - right.mean()) <= 4 * error, name
        assert left.std() == pytest.approx(right.std(), rel=0.08), name
        assert (left.min(), left.max()) == pytest.approx((right.min(), right.max()), abs=3), name


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 2), (2, 1), (3, 900), (900, 3), (1, 900), (900, 1), (37, 53), (224, 224)])
@pytest.mark.parametrize("area", [(0.14, 1.0), (0.05, 0.14), (1.0, 1.0)])
def test_boxes_always_lie_in_the_image(height: int, width: int, area: tuple[float, float]) -> None:
    top, left, h, w = _boxes(height, width, 1000, area).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h).max() <= height
    assert (left + w).max() <= width


@pytest.mark.parametrize(("height", "width", "box"), [(3, 900, [0, 448, 3, 4]), (900, 3, [448, 0, 4, 3]), (1, 1, [0, 0, 1, 1])])
def test_where_nothing_fits_the_largest_central_box_is_taken(height: int, width: int, box: list[int]) -> None:
    assert _boxes(height, width, 50, (1.0, 1.0)).unique(dim=0).tolist() == [box]


def test_ratio_is_width_over_height() -> None:
    p = MultiCrop((1,), (32,), ((0.48, 0.48),)).draw(np.arange(1), seed=0, epoch=0).of_crops(slice(0, 1))
    p = CropParameters(**vars(p) | {"ratio": torch.full_like(p.ratio, 4 / 3)})
    assert resolve_boxes(p, torch.tensor([10]), torch.tensor([10]))[0, 2:].tolist() == [6, 8]


def test_the_last_place_in_the_room_is_reachable_and_no_more() -> None:
    p = MultiCrop((1,), (32,), ((0.25, 0.25),)).draw(np.arange(1), seed=0, epoch=0).of_crops(slice(0, 1))
    p = CropParameters(**vars(p) | {"position": torch.ones(1, 2), "ratio": torch.ones_like(p.ratio)})  # float32 may round to 1
    assert resolve_boxes(p, torch.tensor([20]), torch.tensor([20])).tolist() == [[10, 10, 10, 10]]


# ---- what is applied ----------------------------------------------------------------------------------------------------------


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


def test_few_crops_at_a_time_are_varied_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    images, crops = _images(n=7), MultiCrop((2, 2), (24, 12))
    together = crops(images, np.arange(7), seed=0, epoch=0)
    monkeypatch.setattr("selfcluster.data.crops._CACHED", 3 * 3 * 24 * 24)
    for left, right in zip(together, crops(images, np.arange(7), seed=0, epoch=0), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-5)


def test_what_was_drawn_travels_between_processes() -> None:
    drawn = MultiCrop().draw(np.arange(5), seed=0, epoch=0)
    assert _same(drawn, pickle.loads(pickle.dumps(drawn)))


def test_no_crop_is_enlarged_more_than_from_the_whole_image() -> None:
    crops = MultiCrop((2, 6), (224, 96))
    drawn = crops.draw(np.arange(200), seed=0, epoch=0)
    shares = {}
    for height, width in ((300, 400), (1500, 2000), (6000, 4000), (3, 9000)):
        shares[height] = [crops.least(drawn, image)(height, width) for image in range(200)]
        for image, share in enumerate(shares[height]):
            needed = []
            for which, n, side in ((slice(0, 2), 2, 224), (slice(2, 8), 6, 96)):
                boxes = resolve_boxes(drawn.of_image(which, image), torch.full((n,), height), torch.full((n,), width))
                needed.append(side / int(boxes[:, 2:].min()))
            assert share == min(1, max(needed)) or (share == 1 and max(needed) > 0.5)
            assert share <= crops.least_of_any(height, width) <= 1
    assert min(shares[300]) == min(shares[3]) == 1
    assert max(shares[6000]) < 0.5
    assert crops.least_of_any(6000, 4000) < 0.25


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
