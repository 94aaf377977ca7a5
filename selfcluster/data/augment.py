"""Image operations on batches, with separate parameters for each image.

Images are float32 in [0, 1], (n, channels, h, w) with one or three channels, unless stated otherwise; parameters are (n,). Each operation
equals the one of the same name in torchvision's transforms.v2 applied image by image, on any device. Names that end in an underscore work in
place.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

Images = Float[Tensor, "n c h w"]
Factors = Float[Tensor, "n"]

_LUMA = (0.2989, 0.587, 0.114)


def crop_resize(
    images: UInt8[Tensor, "b c height width"], boxes: Int64[Tensor, "n b 4"], pixels: int, *, mirrored: Bool[Tensor, "n b"] | None = None
) -> UInt8[Tensor, "n b c p p"]:
    """Cut n boxes from each image and resize them to squares of `pixels`; bilinear, antialiased when shrinking.

    Two products with sparse matrices: one per image for the columns of all its boxes, then one per box for its rows.

    Args:
        images: images of one size.
        boxes: top, left, height and width in pixels, inside the image.
        pixels: side of the result.
        mirrored: boxes to flip left to right; None for none.
    """
    (n, b), (channels, height, width) = boxes.shape[:2], images.shape[1:]
    top, left, h, w = boxes.unbind(-1)
    straight = torch.zeros_like(top, dtype=torch.bool)
    mirrored = straight if mirrored is None else mirrored
    if height == width:  # one call for both
        start, length, turned = torch.stack([top, left]), torch.stack([h, w]), torch.stack([straight, mirrored])
        rows, columns = _resize_matrix(start, length, height, pixels, turned, images.device)
    else:
        rows = _resize_matrix(top, h, height, pixels, straight, images.device)
        columns = _resize_matrix(left, w, width, pixels, mirrored, images.device)
    of_images = columns.transpose(0, 1).flatten(1, 2).mT
    x = (images.flatten(1, 2).float() @ of_images).view(b, channels, height, n, pixels)
    x = rows.flatten(0, 1) @ x.permute(3, 0, 2, 1, 4).reshape(n * b, height, channels * pixels)
    # Through int32, which is three times as fast on a CPU.
    return x.round_().to(torch.int32).to(torch.uint8).view(n, b, pixels, channels, pixels).transpose(2, 3).contiguous()


def _resize_matrix(
    start: Int64[Tensor, "*n_b"], length: Int64[Tensor, "*n_b"], n_in: int, n_out: int, mirrored: Bool[Tensor, "*n_b"], device: torch.device
) -> Float[Tensor, "*n_b out in"]:
    """Return in row i the weights of the input pixels in output pixel i: a triangle as wide as the larger of the two pixels."""
    # Only the few pixels within reach of the triangle are computed; how many is found before the boxes are on the device.
    n_reached = math.ceil(2 * float((length.max() / n_out).clamp(min=1))) + 1
    start, length, mirrored = (x.to(device, non_blocking=True) for x in (start, length, mirrored))
    step = (length / n_out)[..., None]
    reach, start, end = step.clamp(min=1), start[..., None, None], (start + length)[..., None, None]
    place = torch.arange(n_out, device=device)
    place = torch.where(mirrored[..., None], n_out - 1 - place, place)
    center = start[..., 0] + (place + 0.5) * step
    pixel = (center - reach).floor()[..., None] + torch.arange(n_reached, device=device)
    weights = (1 - (pixel + 0.5 - center[..., None]).abs() / reach[..., None]).clamp_(min=0)
    weights = weights * ((pixel >= start) & (pixel < end))
    weights /= weights.sum(dim=-1, keepdim=True)
    matrix = torch.zeros(*length.shape, n_out, n_in, device=device)
    return matrix.scatter_add_(-1, pixel.long().clamp_(0, n_in - 1), weights)


def _per_image(x: Tensor) -> Tensor:
    return x[:, None, None, None]


def luma(images: Images) -> Float[Tensor, "n 1 h w"]:
    """Return the perceived brightness (ITU-R 601-2)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return (_LUMA[0] * red).add_(green, alpha=_LUMA[1]).add_(blue, alpha=_LUMA[2])


def _blend_(images: Images, other: Tensor, factor: Factors) -> Images:
    """Mix factor parts of the images with 1 - factor parts of the other, clamped to [0, 1]."""
    return images.mul_(_per_image(factor)).add_(other * _per_image(1 - factor)).clamp_(0, 1)


def adjust_brightness_(images: Images, factor: Factors) -> Images:
    """Scale brightness: black at factor 0, unchanged at 1."""
    return images.mul_(_per_image(factor)).clamp_(max=1)


def adjust_contrast_(images: Images, factor: Factors) -> Images:
    """Scale contrast: the image's mean brightness at factor 0, unchanged at 1."""
    return _blend_(images, luma(images.mean(dim=(2, 3), keepdim=True)), factor)


def adjust_saturation_(images: Images, factor: Factors) -> Images:
    """Scale saturation: grayscale at factor 0, unchanged at 1."""
    return images if images.shape[1] == 1 else _blend_(images, luma(images), factor)


def adjust_hue_(images: Images, shift: Factors) -> Images:
    """Rotate colors by this share of the color circle, in [-0.5, 0.5]; saturation and value stay."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(dim=1)
    value, low = torch.maximum(red, green).maximum(blue), torch.minimum(red, green).minimum(blue)
    chroma = value - low
    # In sixths of the circle, from -3 to 3, without finding the largest channel: comparisons are slow on a CPU.
    hue = torch.add(green, blue).sub_(red).sub_(low).div_(chroma.clamp(min=1e-12)).add_(1).copysign_(green - blue)
    hue.add_(6 * shift[:, None, None])
    hue.sub_((hue / 6).floor_(), alpha=6)
    # Each channel is the lowest one plus chroma times a trapezoid of the hue; the three trapezoids are a third of the circle apart:
    # |h - 3| - 1 for red, 2 - |h - 2| for green and 2 - |h - 4| for blue, between 0 and 1.
    torch.addcmul(low - chroma, chroma, (hue - 3).abs_().clamp_(1, 2), out=red)
    above = torch.add(low, chroma, alpha=2)
    torch.addcmul(above, chroma, (hue - 2).abs_().clamp_(1, 2), value=-1, out=green)
    torch.addcmul(above, chroma, (hue - 4).abs_().clamp_(1, 2), value=-1, out=blue)
    return images


def gaussian_blur(images: Images, sigma: Factors, *, radius: int) -> Images:
    """Convolve with a Gaussian of this standard deviation in pixels, cut off at `radius` pixels; edges reflect."""
    n, channels, height, width = images.shape
    across, down = min(radius, width - 1), min(radius, height - 1)

    def kernel(reach: int) -> Float[Tensor, "n_c 1 taps"]:
        offsets = torch.arange(-reach, reach + 1, device=sigma.device)
        weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
        return (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)[:, None]

    rows, columns = kernel(across), kernel(down)
    # Each channel of each image is a separate group.
    x = pad(images, (across, across, down, down), mode="reflect").view(1, n * channels, height + 2 * down, width + 2 * across)
    x = conv2d(conv2d(x, rows[:, :, None, :], groups=n * channels), columns[:, :, :, None], groups=n * channels)
    return x.view(images.shape)


def affine(images: Images, angle: Factors, shear: Factors, shift: Float[Tensor, "n 2"], scale: Factors) -> Images:
    """Rotate, shear, shift and scale about the center; pixels from outside repeat the edge.

    Args:
        angle: degrees, clockwise.
        shear: horizontal shift per vertical pixel.
        shift: right and down, as a share of the side.
        scale: enlarges if above 1.
    """
    cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    # The sampler needs the position of each output pixel in the input: the inverse rotation, then the inverse shear.
    inverse = torch.stack([cos + shear * sin, sin - shear * cos, -sin, cos], dim=1).reshape(-1, 2, 2) / scale[:, None, None]
    moved = -inverse @ (2 * shift[:, :, None])
    grid = affine_grid(torch.cat([inverse, moved], dim=2), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
