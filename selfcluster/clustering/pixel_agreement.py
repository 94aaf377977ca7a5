"""Whether two pictures are the same one: they are aligned, and their fine structure is compared.

Two skies, two lawns and two frames of a film have much the same features and colors. A copy also has the same grain: after alignment, what
remains of both when their smooth part is taken away is correlated. Copies that were resized, saved again, mirrored or cropped by about a
twentieth on any side are recognized; rotated ones are not, and pictures without structure, such as a clear sky, can only be equal byte by byte.

Source: the alignment is that of Lucas and Kanade, 1981, from coarse to fine, with a scale and a shift in each direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, grid_sample

SIDE = 48
"""Side of a picture in pixels: the whole image, whatever its shape."""

_SIDES = (12, 24, 48)
_ROUNDS = 6
"""Rounds of alignment at each side."""
_SMOOTH = 5
"""Side of the square whose mean is a pixel's smooth part."""
_TILE, _TILE_STRUCTURE, _TILES_BELOW = 8, 2.0, 1 / 6
"""Side of a tile; deviation of its fine structure, in gray levels, from which it counts; share of the tiles that may agree less."""
_RIDGE = 1e-2
"""Ridge of the alignment, as a share of the mean diagonal; keeps pictures without structure in place."""
_MOST = 0.3
"""Largest change of scale, and largest shift in halves of a picture."""

Pictures = Float[Tensor, "p s s"]
Colored = Float[Tensor, "p 3 s s"]


@dataclass(frozen=True)
class Agreement:
    """What remains of two pictures after alignment."""

    correlation: Float[Tensor, " p"]
    """Correlation of the fine structure that five in six of the tiles that have any reach; in [-1, 1]."""
    structure: Float[Tensor, " p"]
    """Deviation of the fine structure in gray levels (0 to 255), that of the smoother picture."""
    is_mirrored: Bool[Tensor, " p"]
    """Whether they were aligned left to right."""
    scale: Float[Tensor, " p"]
    """Side of the second picture over that of the first, the mean of both directions; 1 for the same section."""


def compare(first: Colored, second: Colored) -> Agreement:
    """Align the second pictures with the first, straight or mirrored, whichever agrees more, and compare them.

    Args:
        first, second: colors from 0 to 255, a picture in each row, of `SIDE` pixels.
    """
    straight, mirrored = _aligned(first, second), _aligned(first, second.flip(3))
    is_mirrored = mirrored[0] > straight[0]
    correlation, structure, scale = (torch.where(is_mirrored, theirs, ours) for ours, theirs in zip(straight, mirrored, strict=True))
    return Agreement(correlation, structure, is_mirrored, scale)


def _aligned(first: Colored, second: Colored) -> tuple[Tensor, Tensor, Tensor]:
    """Return correlation, structure and scale of pairs that are not mirrored."""
    warp = torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(len(first), 1)
    for side in _SIDES:
        a, b = (adaptive_avg_pool2d(pictures.mean(dim=1, keepdim=True), side) for pictures in (first, second))
        for _ in range(_ROUNDS):
            warp = _improved(warp, a[:, 0], b)
    moved, inside = _moved(second, warp)
    # Where the square reaches over the rim, its mean says more of the rim than of the pixel.
    whole = (avg_pool2d(inside[:, None], _SMOOTH, stride=1, padding=_SMOOTH // 2) > 0.999).float()
    fine = [(pictures - _smooth(pictures)) * whole for pictures in (first, moved)]
    both, *each = (_in_tiles(x * y) for x, y in ((fine[0], fine[1]), (fine[0], fine[0]), (fine[1], fine[1])))
    n = _in_tiles(whole.expand_as(first)).clamp(min=1)
    correlations = both / (each[0] * each[1]).sqrt().clamp(min=1e-6)
    has_structure = (torch.maximum(*each) / n).sqrt() >= _TILE_STRUCTURE
    correlations = correlations.where(has_structure, torch.nan)
    correlation = torch.nanquantile(correlations, _TILES_BELOW, dim=1).nan_to_num(nan=-1.0)
    structure = torch.minimum(*((squares.sum(dim=1) / n.sum(dim=1)).sqrt() for squares in each))
    # A pair that shares less than two thirds of a picture was aligned by chance.
    return correlation.where(inside.mean(dim=(1, 2)) > 2 / 3, -1.0), structure, warp[:, :2].mean(dim=1)


def _in_tiles(values: Colored) -> Float[Tensor, "p t"]:
    """Return the sum of the values of each tile, over all channels."""
    return avg_pool2d(values.sum(dim=1, keepdim=True), _TILE)[:, 0].flatten(1) * _TILE**2


def _improved(warp: Float[Tensor, "p 4"], first: Pictures, second: Float[Tensor, "p 1 s s"]) -> Float[Tensor, "p 4"]:
    """Return the warp after one round of Gauss-Newton on the difference of the pictures, each scaled to mean 0 and deviation 1."""
    colored, inside = _moved(second, warp)
    moved = colored[:, 0]
    n = inside.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    target, moved = (((x - (x * inside).sum(dim=(1, 2), keepdim=True) / n) * inside) for x in (first, moved))
    target, moved = (x / (x.square().sum(dim=(1, 2), keepdim=True) / n).sqrt().clamp(min=1e-3) for x in (target, moved))
    side = first.shape[1]
    slope_y, slope_x = torch.gradient(moved, spacing=2 / side, dim=(1, 2))
    place = _places(side)
    columns = torch.stack([slope_x * place, slope_y * place[:, None], slope_x, slope_y], dim=1) * inside[:, None]
    jacobian = columns.flatten(2)
    normal = jacobian @ jacobian.mT
    normal = normal + _RIDGE * normal.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-6)[:, None, None] * torch.eye(4)
    step = torch.linalg.solve(normal, (jacobian @ (target - moved).flatten(1)[:, :, None])[:, :, 0])
    neutral = torch.tensor([1.0, 1.0, 0.0, 0.0])
    return neutral + (warp + step - neutral).clamp(-_MOST, _MOST)


def _moved(pictures: Float[Tensor, "p c s s"], warp: Float[Tensor, "p 4"]) -> tuple[Float[Tensor, "p c s s"], Pictures]:
    """Return the pictures at the places that the warp leads to, and 1 where these are inside."""
    place = _places(pictures.shape[2])
    x = warp[:, 0, None] * place + warp[:, 2, None]
    y = warp[:, 1, None] * place + warp[:, 3, None]
    grid = torch.stack([x[:, None].expand(-1, len(place), -1), y[:, :, None].expand(-1, -1, len(place))], dim=3)
    inside = (grid.abs() <= 1).all(dim=3).float()
    return grid_sample(pictures, grid, padding_mode="border", align_corners=False), inside


def _places(side: int) -> Float[Tensor, " side"]:
    """Return the centers of the pixels, from -1 to 1 across the picture."""
    return (torch.arange(side) + 0.5) * 2 / side - 1


def _smooth(pictures: Colored) -> Colored:
    return avg_pool2d(pictures, _SMOOTH, stride=1, padding=_SMOOTH // 2, count_include_pad=False)
