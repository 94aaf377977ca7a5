from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from selfcluster.clustering.pixel_agreement import SIDE, compare


def scenes(n: int = 24, seed: int = 0) -> Tensor:
    """Gray pictures of four times the side, with structure of every size, as photos have."""
    draw = torch.Generator().manual_seed(seed)
    layers = [
        interpolate(torch.randn(n, 1, side, side, generator=draw), 4 * SIDE, mode="bicubic", align_corners=False)[:, 0]
        for side in (3, 6, 12, 24, 48, 96)
    ]
    return 128 + 20 * sum(layers)


def pictures(large: Tensor) -> Tensor:
    return interpolate(large[:, None], (SIDE, SIDE), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)


def test_a_picture_agrees_with_itself() -> None:
    found = compare(pictures(scenes()), pictures(scenes()))
    assert float(found.correlation.min()) > 0.999
    assert not found.is_mirrored.any()
    torch.testing.assert_close(found.scale, torch.ones(24), atol=1e-3, rtol=0)


def test_other_pictures_do_not_agree() -> None:
    assert float(compare(pictures(scenes(seed=0)), pictures(scenes(seed=1))).correlation.max()) < 0.5


@pytest.mark.parametrize(("left", "right", "top", "bottom"), [(0, 10, 0, 10), (5, 5, 5, 5), (10, 0, 0, 0), (0, 16, 16, 0)])
def test_a_part_is_found_in_the_whole_and_the_whole_around_its_part(left: int, right: int, top: int, bottom: int) -> None:
    whole = scenes()
    part = pictures(whole[:, top : whole.shape[1] - bottom, left : whole.shape[2] - right])
    for first, second in ((pictures(whole), part), (part, pictures(whole))):
        assert float(compare(first, second).correlation.quantile(0.05)) > 0.9
    inside, around = compare(pictures(whole), part).scale, compare(part, pictures(whole)).scale
    share = 1 - (left + right + top + bottom) / 2 / whole.shape[1]
    torch.testing.assert_close(inside.median(), torch.tensor(1 / share), atol=0.01, rtol=0)
    torch.testing.assert_close(around.median(), torch.tensor(share), atol=0.01, rtol=0)


def test_a_mirrored_picture_is_told() -> None:
    found = compare(pictures(scenes()), pictures(scenes()).flip(3))
    assert found.is_mirrored.all()
    assert float(found.correlation.min()) > 0.99


def test_brighter_and_flatter_copies_agree() -> None:
    assert float(compare(pictures(scenes()), 40 + 0.5 * pictures(scenes())).correlation.min()) > 0.99


def test_two_skies_of_the_same_color_gradient_do_not_agree() -> None:
    gradient = torch.linspace(90, 200, SIDE)[:, None].expand(8, 3, SIDE, SIDE)
    draw = torch.Generator().manual_seed(0)
    found = compare(gradient + torch.randn(8, 3, SIDE, SIDE, generator=draw), gradient + torch.randn(8, 3, SIDE, SIDE, generator=draw))
    assert float(found.correlation.max()) < 0.3


def test_a_picture_without_structure_says_so() -> None:
    flat = torch.full((1, 3, SIDE, SIDE), 77.0)
    found = compare(flat, flat)
    assert float(found.structure) < 1e-3
    assert found.correlation.isfinite().all()


def test_the_same_shape_in_another_color_or_frame_does_not_agree() -> None:
    """A strong edge that two pictures share, such as a frame, must not hide that their insides differ."""
    first, second = pictures(scenes(seed=0)).clone(), pictures(scenes(seed=1)).clone()
    for framed in (first, second):
        framed[:, :, :8], framed[:, :, -8:], framed[..., :8], framed[..., -8:] = 255, 255, 255, 255
    assert float(compare(first, second).correlation.max()) < 0.7
    shape = pictures(scenes())
    white, black = torch.full_like(shape[:, :1], 255), torch.zeros_like(shape[:, :1])
    yellow, green = (torch.cat(channels, dim=1) for channels in ([white, white, shape[:, :1]], [shape[:, :1], white, black]))
    assert float(compare(yellow, green).correlation.max()) < 0.7
