"""What is drawn for each crop, and where its box is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from selfcluster.data.crop_parameters import CropParameters, resolve_boxes
from selfcluster.data.crops import MultiCrop
from selfcluster.settings.config import AugmentSettings

MANY = 4000


def _same(left: CropParameters, right: CropParameters) -> bool:
    return all(torch.equal(x, getattr(right, name)) for name, x in vars(left).items())


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
def test_each_part_of_the_key_changes_the_draw(change: dict) -> None:
    key = {"index": np.arange(200), "seed": 1, "epoch": 2, "occurrence": 0}
    crops = MultiCrop((6,), (16,), ((0.14, 1.0),))
    left, right = crops.draw(**key), crops.draw(**key | change)  # type: ignore[arg-type]
    for name in ("area", "ratio", "position", "brightness", "contrast", "hue", "sigma"):
        ours, theirs = (getattr(drawn, name).flatten() for drawn in (left, right))
        assert (ours == theirs).float().mean() < 0.01, name
        assert abs(np.corrcoef(ours, theirs)[0, 1]) < 4 / np.sqrt(len(ours)), name


def test_each_crop_of_an_image_is_drawn_independently() -> None:
    drawn = MultiCrop((3, 3)).draw(np.arange(2000), seed=0, epoch=0)
    limit = 4 / np.sqrt(2000)
    for name in ("brightness", "hue", "sigma"):
        off_diagonal = np.corrcoef(getattr(drawn, name).numpy()) - np.eye(6)
        assert np.abs(off_diagonal).max() < limit


def test_the_strength_of_one_operation_does_not_change_the_draws_of_others() -> None:
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


def test_glyphs_are_rotated_and_shifted_instead() -> None:
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
def test_boxes_are_always_inside_the_image(height: int, width: int, area: tuple[float, float]) -> None:
    top, left, h, w = _boxes(height, width, 1000, area).unbind(1)
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h).max() <= height
    assert (left + w).max() <= width


@pytest.mark.parametrize(("height", "width", "box"), [(3, 900, [0, 448, 3, 4]), (900, 3, [448, 0, 4, 3]), (1, 1, [0, 0, 1, 1])])
def test_if_no_box_fits_the_largest_central_one_is_used(height: int, width: int, box: list[int]) -> None:
    assert _boxes(height, width, 50, (1.0, 1.0)).unique(dim=0).tolist() == [box]


def test_ratio_is_width_over_height() -> None:
    p = MultiCrop((1,), (32,), ((0.48, 0.48),)).draw(np.arange(1), seed=0, epoch=0).of_crops(slice(0, 1))
    p = CropParameters(**vars(p) | {"ratio": torch.full_like(p.ratio, 4 / 3)})
    assert resolve_boxes(p, torch.tensor([10]), torch.tensor([10]))[0, 2:].tolist() == [6, 8]


def test_the_last_position_is_reachable_and_no_further() -> None:
    p = MultiCrop((1,), (32,), ((0.25, 0.25),)).draw(np.arange(1), seed=0, epoch=0).of_crops(slice(0, 1))
    p = CropParameters(**vars(p) | {"position": torch.ones(1, 2), "ratio": torch.ones_like(p.ratio)})  # float32 may round to 1
    assert resolve_boxes(p, torch.tensor([20]), torch.tensor([20])).tolist() == [[10, 10, 10, 10]]


def test_parameters_can_be_pickled() -> None:
    drawn = MultiCrop().draw(np.arange(5), seed=0, epoch=0)
    assert _same(drawn, pickle.loads(pickle.dumps(drawn)))
