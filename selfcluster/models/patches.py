"""The encoder `patches`: codes of small patches, projected, pooled over places of the image, and partly whitened.

It is fitted to images in seconds to minutes, without training (see `clustering.patches`), and is then a network like any other: convolution,
threshold, product, pooling. Images of more than 40 pixels are seen at two scales, in full and at half the side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, linear, normalize, unfold

from selfcluster import distributed, randomness
from selfcluster.clustering.patches import CodeMoments, fit_dictionary
from selfcluster.data.readers.images import Images
from selfcluster.errors import ConfigError, DataError
from selfcluster.models.features import prepared_images
from selfcluster.models.pretrained import Preparation

PATCHES = "patches"
"""Name of the encoder."""

PREPARATION = Preparation(mean=(0.0,) * 3, deviation=(1.0,) * 3, interpolation="bilinear", pixels=32)
"""The encoder takes pixels in [0, 1]."""

N_FEATURES = 512
"""Width of the output."""
LARGEST_SIDE = 64
"""Largest side of images that is worth the time."""
_SMALLEST_SIDE = 28
"""Images smaller than this are enlarged."""
_ONE_SCALE = 40
"""Largest side of images that are seen at one scale."""

_PATCHES_OF_CODE = 100
"""Patches in the sample that the dictionary is made of, for each of its entries."""
_N_MOMENTS, SAMPLE = 2_000, 3_000
"""Images for the moments of codes; images for the components, and in all."""
_PATCHES_OF_IMAGE = 64
"""Patches of an image that count for the moments."""
POWER = 0.75
"""Each component is divided by its deviation to this power; 1 is whitening, 0 leaves it."""
_SAMPLED = 0xA7
"""Key of the random draws."""
_CHUNK = 1 << 24
"""Codes computed at a time on a CPU, so that they stay in its cache."""

default_cfgs = generate_default_cfgs(
    {PATCHES: {"url": "", "num_classes": 0, "mean": (0.0,) * 3, "std": (1.0,) * 3, "crop_pct": 1.0, "fixed_input_size": True}}
)
"""timm reads this name when the encoder is registered."""


@dataclass(frozen=True)
class Scale:
    """Settings of one scale; docs/log.md says how the defaults were found."""

    side: int
    """Side that images are reduced to, in pixels; a divisor of theirs."""
    patch: int = 6
    """Side of a patch."""
    stride: int = 1
    """Pixels from patch to patch."""
    threshold: float = 0.3
    """Cosine from which an entry of the dictionary is near a patch."""
    floor: float = 1e-3
    """Added to the eigenvalues of the patches' covariance."""
    n_directions: int = 384
    """Directions that codes are projected to."""
    n_dropped: int = 0
    """Leading directions that are left out, in addition to the constant."""
    places: int = 6
    """Places along each side of the image, an even number."""


def patches_pixels(short_side: int) -> int:
    """Return the side that images are resized to, given their short side: a multiple of 4, so that mirroring is exact at both scales.

    That is nearly their own, but at most 64, and 32 for images smaller than 28.
    """
    return min(LARGEST_SIDE, short_side) // 4 * 4 if short_side >= _SMALLEST_SIDE else 32


def default_codes(n_images: int) -> int:
    """Return the default number of entries: half as many as images, so that the time is in proportion, but at least 64 and at most 2048."""
    return max(64, min(2048, n_images // 4 * 2))


def scales_of(side: int) -> tuple[Scale, ...]:
    """Return the scales at which images of this side are seen."""
    if side <= _ONE_SCALE:
        return (Scale(side),)
    return (Scale(side, patch=8, stride=2), Scale(side // 2))


class PatchScale(nn.Module):
    """Features of an image from its patches at one scale.

    Args:
        settings: of the scale.
        n_codes: entries of the dictionary, an even number.
    """

    filters: Tensor
    entries: Tensor
    directions: Tensor
    parity: Tensor

    def __init__(self, settings: Scale, n_codes: int) -> None:
        super().__init__()
        self.settings = s = settings
        width = 3 * s.patch**2
        self.register_buffer("filters", torch.zeros(width, 3, s.patch, s.patch))
        self.register_buffer("entries", torch.zeros(n_codes, width))
        self.register_buffer("directions", torch.zeros(s.n_directions, n_codes))
        self.register_buffer("parity", torch.ones(s.n_directions))
        self.n_patches = ((s.side - s.patch) // s.stride + 1) ** 2
        """Patches of an image."""
        self.n_features = s.n_directions * s.places * s.places // 2

    def reduced(self, pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n 3 side side"]:
        """Return the images at this scale."""
        factor = pixels.shape[-1] // self.settings.side
        return avg_pool2d(pixels, factor) if factor > 1 else pixels

    def codes(self, pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n h w k"]:
        """Return for each patch 1 for the entries near it and 0 for the others."""
        with torch.autocast(pixels.device.type, enabled=False):
            whitened = conv2d(self.reduced(pixels), self.filters, stride=self.settings.stride)
            whitened = normalize(whitened.permute(0, 2, 3, 1), dim=-1).contiguous()
        return linear(whitened, self.entries).gt_(self.settings.threshold)

    def forward(self, pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n f"]:
        codes = self.codes(pixels)
        rows = codes[:, :-2:2] + codes[:, 1:-1:2] + codes[:, 2::2]
        nearby = rows[:, :, :-2:2] + rows[:, :, 1:-1:2] + rows[:, :, 2::2]  # 3 x 3 patches, every second one
        projected = linear(nearby, self.directions)
        places = adaptive_avg_pool2d(normalize(projected.float(), dim=-1).permute(0, 3, 1, 2), self.settings.places)
        # Joined with the mirrored image, whose features are the same at mirrored places, negated in odd directions.
        joined = places + self.parity[:, None, None] * places.flip(3)
        return joined[..., : self.settings.places // 2].flatten(1)

    def fit(self, images: Float[Tensor, "n 3 s s"], *, seed: int) -> None:
        """Fit the dictionary and the directions."""
        generator = torch.Generator().manual_seed(seed)
        n_codes, device = len(self.entries), self.entries.device
        patches = self._sampled_patches(self.reduced(images), generator)
        mirrored = torch.arange(patches.shape[1]).view(3, self.settings.patch, self.settings.patch).flip(2).flatten()
        found = fit_dictionary(patches, mirrored, n_codes, floor=self.settings.floor, seed=seed, device=device)
        self.filters.copy_(found.whitening.view_as(self.filters))
        self.entries.copy_(found.entries)
        moments = CodeMoments(n_codes, device)
        for part in images[:_N_MOMENTS].split(32):
            codes = self.codes(part.to(device)).flatten(1, 2)
            moments.add(codes, torch.randperm(codes.shape[1], generator=generator)[:_PATCHES_OF_IMAGE])
        directions, parity = (
            found[self.settings.n_dropped :] for found in moments.directions(len(self.directions) + self.settings.n_dropped)
        )
        self.directions[: len(directions)], self.parity[: len(parity)] = directions, parity

    def _sampled_patches(self, images: Float[Tensor, "n 3 s s"], generator: torch.Generator) -> Float[Tensor, "m d"]:
        """Draw as many patches from each image, at random places, without repetition."""
        each = min(self.n_patches, -(-_PATCHES_OF_CODE * len(self.entries) // len(images)))
        drawn = []
        for part in images.split(256):
            of_part = unfold(part, self.settings.patch, stride=self.settings.stride).transpose(1, 2)
            places = torch.rand(of_part.shape[:2], generator=generator).argsort(dim=1)[:, :each]
            drawn.append(of_part.gather(1, places[..., None].expand(-1, -1, of_part.shape[2])).flatten(0, 1))
        return torch.cat(drawn)


class PatchEncoder(nn.Module):
    """Patches at one scale or two, and the leading components of their features, partly whitened.

    Args:
        side: side of the images, in pixels.
        n_codes: entries of each dictionary, an even number.
        n_features: width of the output.
        scales: scales of the patches; None for those of `scales_of`.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, side: int = 32, n_codes: int = 2048, n_features: int = N_FEATURES, scales: tuple[Scale, ...] | None = None) -> None:
        super().__init__()
        if n_codes < 2 or n_codes % 2:
            raise ConfigError(
                f"n_codes {n_codes} must be an even number of at least 2, since entries and their mirror images come in pairs"
            )
        parts = [PatchScale(scale, n_codes) for scale in scales or scales_of(side)]
        self.scales: Iterable[PatchScale] = nn.ModuleList(parts)  # type: ignore[assignment]
        self.n_codes_of_image = max(n_codes * part.n_patches for part in parts)
        self.side, self.n_codes, self.num_features = side, n_codes, n_features
        width = sum(part.n_features for part in parts)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("components", torch.zeros(width, n_features))

    def forward(self, pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n f"]:
        """Return the features of images with pixels in [0, 1]."""
        if pixels.shape[-1] != self.side:
            raise ValueError(f"patches were fitted to images of {self.side} px")
        if torch.compiler.is_compiling():  # an exported graph has no loop over a batch of any size
            return self._features(pixels)
        return torch.cat([self._features(part) for part in pixels.split(self._n_at_once)])

    def _features(self, pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n f"]:
        joined = self._joined(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            return (joined - self.mean) @ self.components

    def _joined(self, pixels: Float[Tensor, "n 3 s s"]) -> Float[Tensor, "n w"]:
        return torch.cat([scale(pixels) for scale in self.scales], dim=1)

    @property
    def _n_at_once(self) -> int:
        return max(1, _CHUNK * (1 if self.mean.device.type == "cpu" else 64) // self.n_codes_of_image)

    def check_images(self, n: int) -> None:
        """Raise DataError if n images have fewer patches than a dictionary has entries."""
        n_patches = n * min(scale.n_patches for scale in self.scales)
        if n_patches < self.n_codes:
            raise DataError(f"{n:,} images have {n_patches:,} patches, fewer than the {self.n_codes:,} of the dictionary; lower --n-codes")

    @torch.no_grad()
    def fit(self, sample: UInt8[Tensor, "n 3 s s"], *, seed: int = 0) -> None:
        """Fit every tensor to a sample of images, see `SAMPLE`; the result depends on the sample and the seed alone.

        Raises:
            DataError: the sample has fewer patches than a dictionary has entries.
        """
        self.check_images(len(sample))
        images = sample.float() / 255
        for scale in self.scales:
            scale.fit(images, seed=seed)
        joined = torch.cat([self._joined(part.to(self.mean.device)).cpu() for part in images.split(self._n_at_once)]).numpy()
        n = min(self.num_features, len(joined) - 1, joined.shape[1])
        found = PCA(n, svd_solver="randomized", random_state=seed).fit(joined)
        scale_by = np.maximum(found.explained_variance_, 1e-5 * found.explained_variance_[0]) ** (-POWER / 2)
        self.mean.copy_(torch.from_numpy(found.mean_))
        self.components.zero_()[:, :n] = torch.from_numpy(found.components_.T * scale_by)


def fit_patches(
    encoder: PatchEncoder, images: Images, *, index: NDArray[np.int64] | None = None, seed: int = 0, workers: int = 0, threads: int = 1
) -> None:
    """Fit an encoder to a sample of images; on every rank to that of rank 0.

    Args:
        encoder: fitted where it is.
        images: the images.
        index: those to sample from; None for all.
        seed: random seed of the sample and of the fit.
        workers, threads: for reading the images, as in `Loader`.
    Raises:
        DataError: the images have fewer patches than the dictionary has entries.
    """
    if distributed.rank() == 0:
        index = np.arange(len(images)) if index is None else index
        sample = np.sort(index[randomness.permutation(len(index), seed, _SAMPLED)[:SAMPLE]])
        with distributed.alone():
            batches = prepared_images(images, index=sample, pixels=encoder.side, workers=workers, threads=threads)
            encoder.fit(torch.cat([prepared[readable] for prepared, readable in batches]), seed=seed)
    encoder.load_state_dict(distributed.of_rank_0(encoder.state_dict()))


@register_model
def patches(pretrained: bool = False, **shape: Any) -> nn.Module:
    """Patches, to be fitted or loaded; 512 features. Arguments: `side`, `n_codes`, `n_features`."""
    return build_model_with_cfg(
        PatchEncoder, PATCHES, pretrained, kwargs_filter=("num_classes", "in_chans", "global_pool", "img_size"), **shape
    )
