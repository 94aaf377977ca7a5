"""What comes before the encoder: edges instead of colors, and the normalization that its weights expect."""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.nn.functional import conv2d


class Sobel(nn.Module):
    """Edges instead of colors: fixed 3 x 3 Sobel filters in x and y on the mean of the channels.

    Source: DeepCluster, arXiv 1807.05520, section 4.1.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        in_x = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("filters", torch.stack([in_x, in_x.T])[:, None], persistent=False)

    def forward(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2 h w"]:
        return conv2d(pixels.mean(dim=1, keepdim=True), self.filters, padding=1)


class Renormalize(nn.Module):
    """Changes pixels normalized by ImageNet's mean and deviation into pixels normalized by others.

    Args:
        mean: mean of each channel, in [0, 1].
        deviation: standard deviation of each channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]) -> None:
        super().__init__()
        old_mean, old_deviation, new_mean, new_deviation = (
            torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, mean, deviation)
        )
        self.register_buffer("scale", (old_deviation / new_deviation).float(), persistent=False)
        self.register_buffer("shift", ((old_mean - new_mean) / new_deviation).float(), persistent=False)

    def forward(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        return pixels * self.scale + self.shift
