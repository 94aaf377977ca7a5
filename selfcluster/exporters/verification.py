"""What every format is made from, and how each is checked before anybody may have it.

An export is a promise: the same picture gives the same features, elsewhere. So each format is read again by the library that it is
meant for, and both networks are asked for the features of the same input. What differs is not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import methods
from selfcluster.data.crops import DEVIATION, MEAN
from selfcluster.errors import CheckpointError
from selfcluster.models.features import Layer
from selfcluster.models.model import ClusterModel
from selfcluster.settings.config import Config, replace

TOLERANCE = 1e-4
"""Largest difference of a feature that is allowed, as a share of the largest feature: float32 sums in another order differ by less."""

_N_PROBES = 5


@dataclass(frozen=True)
class Source:
    """What is exported."""

    path: Path
    """The run's folder."""
    config: Config[Any]
    network: ClusterModel
    """A plain copy, from `plain_copy`."""
    layer: Layer = "features"

    @property
    def encoder_name(self) -> str:
        """As timm knows it, without a tag."""
        return self.config.model.encoder.split(".")[0]

    @property
    def pixels(self) -> int:
        """Side of the images that the network is meant for outside training."""
        return self.config.crops.crop_pixels[0]


@dataclass(frozen=True)
class Difference:
    """How far the features of what was exported are from the run's."""

    largest: float
    of: float
    """The largest feature of the run."""

    def __str__(self) -> str:
        if self.largest == 0:
            return "it gives exactly what the run's network gives (in float32 on the CPU)"
        return f"it differs from the run's network (in float32 on the CPU) by {self.largest:.1e} at most, in output up to {self.of:.3g}"


def plain_copy(model: ClusterModel, config: Config[Any]) -> ClusterModel:
    """The network as it is built anew, with these weights: in eval mode, in float32 on the CPU, not compiled, not spread over ranks."""
    plain = methods.build_model(replace(config, {"init": "random"})).to(memory_format=torch.contiguous_format)
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def probe(source: Source, *, channels: int = 3) -> Float[Tensor, "n c h w"]:
    """Input to compare by: normal noise, which is what normalized images are in mean and deviation; always the same."""
    return torch.randn(_N_PROBES, channels, source.pixels, source.pixels, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def difference(found: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor], images: Tensor) -> Difference:
    """How far two networks are apart on the same input.

    Raises:
        CheckpointError: farther than the tolerance, or a feature is not finite.
    """
    expected = wanted(images)
    largest, of = float((found(images) - expected).abs().max()), float(expected.abs().max())
    if not largest <= TOLERANCE * of:
        raise CheckpointError(
            f"what was exported gives other features than the run: they differ by {largest:.1e}, where the largest is {of:.3g}; nothing was written"
        )
    return Difference(largest, of)


def preprocessing(source: Source) -> dict[str, Any]:
    """What has to be done to an image before the network sees it, for JSON."""
    side = source.pixels
    return {
        "input": {"shape": ["batch", 3, side, side], "dtype": "float32", "channels": "RGB"},
        "steps": [
            "turn upright by the EXIF tag; lay transparent images over white; give grey ones three equal channels",
            "cut out the largest central square",
            f"resize it to {side} x {side}, bilinear, antialiased",
            "divide by 255, subtract the mean, divide by the deviation",
        ],
        "mean": list(MEAN),
        "deviation": list(DEVIATION),
    }
