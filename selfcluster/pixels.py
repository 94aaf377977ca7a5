"""Image operations on whole batches, each image with parameters of its own.

Images are float32 in [0, 1], (n, channels, h, w) with one or three channels, unless said otherwise; parameters are (n,). Each
operation equals the one of the same name in torchvision's transforms.v2 applied image by image, on any device.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

Images = Float[Tensor, "n c h w"]
Factors = Float[Tensor, "n"]

_LUMA = (0.2989, 0.587, 0.114)


def crop_resize(images: UInt8[Tensor, "n c height width"], boxes: Int64[Tensor, "n 4"], pixels: int) -> UInt8[Tensor, "n c p p"]:
    """The boxes of the images, resized to squares of `pixels`; bilinear, antialiased where that shrinks.

    Args:
        images: all of one size.
        boxes: top, left, height and width in pixels, inside the image.
        pixels: side of the result.
    """
    top, left, height, width = boxes.unbind(1)
    rows = _resize_matrix(top, height, images.shape[2], pixels)[:, None]
    columns = _resize_matrix(left, width, images.shape[3], pixels)[:, None]
    return (rows @ images.float() @ columns.mT).round_().clamp_(0, 255).to(torch.uint8)


def _resize_matrix(start: Int64[Tensor, " n"], length: Int64[Tensor, " n"], n_in: int, n_out: int) -> Float[Tensor, "n out in"]:
    """Row i holds the weights with which the input pixels make output pixel i: a triangle of the wider of the two pixel sizes."""
    device = start.device
    step = (length / n_out)[:, None, None]
    centre = start[:, None, None] + (torch.arange(n_out, device=device)[None, :, None] + 0.5) * step
    pixel = torch.arange(n_in, device=device)[None, None, :]
    inside = (pixel >= start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = (1 - (pixel + 0.5 - centre).abs() / step.clamp(min=1)).clamp(min=0) * inside
    return weights / weights.sum(dim=-1, keepdim=True)


def flip(images: Images, where: Bool[Tensor, " n"]) -> Images:
    """Mirrored left to right where the flag is up."""
    return torch.where(_per_image(where), images.flip(-1), images)


def _per_image(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def luma(images: Images) -> Float[Tensor, "n 1 h w"]:
    """Brightness as the eye weighs the colours (ITU-R 601-2)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(images: Images, other: Tensor, factor: Factors) -> Images:
    """factor parts of the image and 1 - factor parts of the other, kept in range."""
    factor = _per_image(factor)
    return (factor * images + (1 - factor) * other).clamp_(0, 1)


def adjust_brightness(images: Images, factor: Factors) -> Images:
    """Black at factor 0, unchanged at 1."""
    return _blend(images, torch.zeros((), device=images.device), factor)


def adjust_contrast(images: Images, factor: Factors) -> Images:
    """The image's mean brightness at factor 0, unchanged at 1."""
    return _blend(images, luma(images).mean(dim=(1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Images, factor: Factors) -> Images:
    """Grey at factor 0, unchanged at 1."""
    return images if images.shape[1] == 1 else _blend(images, luma(images), factor)


def adjust_hue(images: Images, shift: Factors) -> Images:
    """Colours turned by this share of the colour circle, in [-0.5, 0.5]; saturation and value stay."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(dim=1)
    value, low = images.amax(dim=1), images.amin(dim=1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red, (green - blue) / safe, torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    )
    turned = sixths + 6 * shift[:, None, None]
    # Each channel is the value less chroma times a trapezoid of the hue; the three trapezoids stand a third of the circle apart.
    offset = torch.tensor([5.0, 3.0, 1.0], device=images.device)[None, :, None, None]
    place = (turned[:, None] + offset) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(place, 4 - place).clamp(0, 1)


def to_grey(images: Images, where: Bool[Tensor, " n"]) -> Images:
    """Without colour where the flag is up."""
    return images if images.shape[1] == 1 else torch.where(_per_image(where), luma(images), images)


def gaussian_blur(images: Images, sigma: Factors, *, radius: int) -> Images:
    """Convolved with a Gaussian of this standard deviation in pixels, cut off at `radius` pixels; edges reflect.

    The kernel is applied as one banded matrix per image and axis, so that images with different sigmas share one product.
    """
    rows = _blur_matrix(sigma, images.shape[2], radius)[:, None]
    columns = _blur_matrix(sigma, images.shape[3], radius)[:, None]
    return rows @ images @ columns.mT


def _blur_matrix(sigma: Factors, side: int, radius: int) -> Float[Tensor, "n side side"]:
    radius = min(radius, side - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    source = torch.arange(side, device=sigma.device)[:, None] + offsets
    reflected = (side - 1) - ((side - 1) - source.abs()).abs()
    matrix = torch.zeros(len(sigma), side, side, device=sigma.device)
    return matrix.scatter_add_(2, reflected.expand(len(sigma), -1, -1), kernel[:, None, :].expand(-1, side, -1).contiguous())


def affine(images: Images, angle: Factors, shear: Factors, shift: Float[Tensor, "n 2"], scale: Factors) -> Images:
    """Turned, sheared, shifted and enlarged about the centre; what comes in from outside repeats the edge.

    Args:
        angle: degrees, clockwise.
        shear: horizontal shift per vertical pixel.
        shift: right and down, as a share of the side.
        scale: above 1 enlarges.
    """
    cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    # The sampler asks for each output pixel's place in the input: the inverse shear after the inverse turn.
    inverse = torch.stack([cos + shear * sin, sin - shear * cos, -sin, cos], dim=1).reshape(-1, 2, 2) / scale[:, None, None]
    moved = -inverse @ (2 * shift[:, :, None])
    grid = affine_grid(torch.cat([inverse, moved], dim=2), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
