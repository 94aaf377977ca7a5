"""Two tests without labels, as a person would make them: is an image found again without its colors, and do clusters follow more than color?

An encoder that knows what is in an image finds it among others after its colors are removed and it is cropped. One that has learned nothing,
or colors alone, does not even as well as a few raw pixels, though its loss may have fallen and its features have a high rank (docs/log.md has
figures). A frozen encoder is tested in the same way as a trained one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import randomness
from selfcluster.clustering.duplicates import thumbnails
from selfcluster.data import crops
from selfcluster.data.augment import crop_resize, luma
from selfcluster.data.readers.images import Images
from selfcluster.models.features import prepared_images
from selfcluster.settings.config import Interpolation

FEWEST = 32
"""Images below which nothing is tested."""
_N_IMAGES = 384
_SHORTEST, _LONGEST = 0.7, 0.9
"""Side of the crop, as a share of the image's."""
_LEAST_CONTRAST = 0.7
_BATCH = 64
_MOST_COLORS, _N_NEIGHBORS = 5000, 10
"""Images whose mean colors are compared, and how many with the nearest color tell an image's cluster."""
_KEY = 0x7E57
"""Key of the random draws."""


@dataclass(frozen=True)
class Trust:
    """Results of the tests, as shares of the images."""

    n: int
    """Images that were looked for, each among all of them."""
    found: float
    """Found again by the encoder's features, without their colors and cropped."""
    found_by_pixels: float
    """The same by 8 x 8 raw pixels."""
    cluster_by_color: float
    """Images whose cluster is that of most of the ten with the nearest mean color."""
    largest: float
    """Share of the largest cluster, which one would guess without looking."""
    are_mirrored: bool
    """Whether half of the images were mirrored too."""


def measure(
    encode: Callable[[Float[Tensor, "n 3 h w"]], Float[Tensor, "n f"]],
    images: Images,
    index: Int64[np.ndarray, " r"],
    features: Float[Tensor, "n f"],
    looks: Float[Tensor, "n t"],
    clusters: Int64[Tensor, " n"],
    *,
    pixels: int,
    interpolation: Interpolation = "bilinear",
    mirror: bool = True,
    seed: int = 0,
    threads: int = 1,
) -> Trust | None:
    """Test an encoder and clusters; None for fewer than 32 images.

    Args:
        encode: from normalized images of side `pixels` to features.
        images: source of the images.
        index: those that can be read; the next arguments have a row for each image, read or not.
        features: output of the encoder.
        looks: `duplicates.thumbnails`.
        clusters: cluster of each.
        pixels, interpolation: side that images are resized to, and how.
        mirror: mirror half of the images, for encoders that were trained with mirrored ones.
        seed: of the choice of images, and of what is changed in them.
        threads: that read images.
    """
    if len(index) < FEWEST:
        return None
    places = np.sort(randomness.permutation(len(index), seed, _KEY)[:_N_IMAGES])
    chosen = index[places]
    rows, changed_looks = [], []
    prepared = prepared_images(images, index=chosen, pixels=pixels, interpolation=interpolation, batch=_BATCH, threads=threads)
    for place, (batch, _) in enumerate(prepared):
        draws = torch.from_numpy(randomness.uniform(seed, _KEY, places[place * _BATCH :][: len(batch)], n=5))
        changed = crops.normalize(without_color(batch, draws, mirror=mirror))
        rows.append(encode(changed))
        changed_looks.append(thumbnails(changed))
    some = index[randomness.permutation(len(index), seed, _KEY)[:_MOST_COLORS]]
    color, largest = _cluster_by_color(looks[some], clusters[some])
    return Trust(
        n=len(chosen),
        found=_found(torch.cat(rows), features[chosen]),
        found_by_pixels=_found(_colorless(torch.cat(changed_looks)), _colorless(looks[chosen])),
        cluster_by_color=color,
        largest=largest,
        are_mirrored=mirror,
    )


def without_color(images: UInt8[Tensor, "n 3 s s"], draws: Float[Tensor, "n 5"], *, mirror: bool) -> UInt8[Tensor, "n 3 s s"]:
    """Crop, perhaps mirror, and make gray of medium brightness and less contrast.

    Args:
        images: square images.
        draws: uniform in [0, 1): size and place of the crop, whether it is mirrored, and contrast.
        mirror: mirror where the draw says so.
    """
    side = images.shape[-1]
    size = (side * (_SHORTEST + (_LONGEST - _SHORTEST) * draws[:, 0])).round().clamp(1, side)
    corner = (draws[:, 1:3] * (side - size + 1)[:, None]).floor()
    boxes = torch.stack([corner[:, 0], corner[:, 1], size, size], dim=1).long()[None]
    cut = crop_resize(images, boxes, side, mirrored=((draws[:, 3] < 0.5) & mirror)[None])[0]
    gray = luma(cut.float() / 255)
    contrast = (_LEAST_CONTRAST + (1 - _LEAST_CONTRAST) * draws[:, 4]).float()[:, None, None, None]
    gray = ((gray - gray.mean(dim=(2, 3), keepdim=True)) * contrast + 0.5).clamp(0, 1)
    return (gray * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)


def _found(changed: Float[Tensor, "n f"], bank: Float[Tensor, "n f"]) -> float:
    """Return the share of rows whose nearest in the bank, by cosine of centered rows, is their own."""
    center = bank.mean(dim=0)
    nearest = (normalize(changed - center) @ normalize(bank - center).T).argmax(dim=1)
    return float((nearest == torch.arange(len(bank))).float().mean())


def _colorless(looks: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Return pixels without the image's mean color."""
    channels = looks.unflatten(1, (3, -1))
    return (channels - channels.mean(dim=2, keepdim=True)).flatten(1)


def _cluster_by_color(looks: Float[Tensor, "n t"], clusters: Int64[Tensor, " n"]) -> tuple[float, float]:
    """Return how often images of the nearest mean color tell the cluster, and the share of the largest cluster."""
    colors = looks.unflatten(1, (3, -1)).mean(dim=2)
    distances = torch.cdist(colors, colors).fill_diagonal_(torch.inf)
    nearest = distances.topk(min(_N_NEIGHBORS, len(looks) - 1), largest=False).indices
    votes = torch.zeros(len(looks), int(clusters.max()) + 1).scatter_add_(1, clusters[nearest], torch.ones(nearest.shape))
    sizes = torch.bincount(clusters)
    return float((votes.argmax(dim=1) == clusters).float().mean()), float(sizes.max() / len(looks))
