"""The source of every export, and the check that it reproduces the run's features.

Each format is loaded again by the library it is meant for, and both networks compute the features of the same input. An export that
differs is not kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from timm.models import split_model_name_tag
from torch import Tensor

from selfcluster import methods
from selfcluster.errors import CheckpointError
from selfcluster.inference.centroids import Centroids
from selfcluster.models.model import ClusterModel
from selfcluster.settings.commands import ExportLayer
from selfcluster.settings.config import Config, replace

TOLERANCE = 1e-4
"""Largest allowed difference of a feature, relative to the largest feature: float32 sums in another order differ by less."""

_N_PROBES = 5


@dataclass(frozen=True)
class Source:
    """A run to export."""

    path: Path
    """Run folder."""
    config: Config[Any]
    network: ClusterModel
    """A copy from `plain_copy`."""
    layer: ExportLayer = "features"
    centroids: Centroids | None = None
    """Of the run's clusters, if they are exported as classes."""

    @property
    def encoder_name(self) -> str:
        """timm's name of the encoder, without a tag."""
        return split_model_name_tag(self.config.model.encoder)[0]

    @property
    def pixels(self) -> int:
        """Side of the images that the network takes outside training."""
        return self.config.crops.crop_pixels[0]


@dataclass(frozen=True)
class Difference:
    """Difference between the outputs of the export and of the run."""

    largest: float
    of: float
    """Largest output of the run."""

    def __str__(self) -> str:
        if self.largest == 0:
            return "its output equals the run's exactly (in float32 on the CPU)"
        return f"its output differs from the run's (in float32 on the CPU) by at most {self.largest:.1e}, with values up to {self.of:.3g}"


def plain_copy(model: ClusterModel, config: Config[Any]) -> ClusterModel:
    """Build the network again with these weights: in eval mode, in float32 on the CPU, not compiled, not distributed."""
    plain = methods.build_model(replace(config, {"init": "random"})).to(memory_format=torch.contiguous_format)
    plain.load_state_dict(model.state_dict())
    return plain.eval()


def probe(source: Source, *, channels: int = 3) -> Float[Tensor, "n c h w"]:
    """Return the input for comparisons: standard normal noise, like normalized images in mean and deviation; always the same."""
    return torch.randn(_N_PROBES, channels, source.pixels, source.pixels, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def difference(found: Callable[[Tensor], Tensor], wanted: Callable[[Tensor], Tensor], images: Tensor) -> Difference:
    """Compare two networks on the same input.

    Raises:
        CheckpointError: they differ by more than the tolerance, or an output is not finite.
    """
    expected = wanted(images)
    largest, of = float((found(images) - expected).abs().max()), float(expected.abs().max())
    if not largest <= TOLERANCE * of:
        raise CheckpointError(
            f"the export does not reproduce the run: its output differs by {largest:.1e}, with values up to {of:.3g}; nothing was written"
        )
    return Difference(largest, of)


def preprocessing(source: Source, *, mean: tuple[float, ...], deviation: tuple[float, ...]) -> dict[str, Any]:
    """Describe the preprocessing of images for the network, for JSON."""
    side = source.pixels
    return {
        "input": {"shape": ["batch", 3, side, side], "dtype": "float32", "channels": "RGB"},
        "steps": [
            "rotate according to the EXIF tag; put transparent images on white; convert grayscale to RGB",
            "crop the largest central square",
            f"resize it to {side} x {side}, {source.config.model.interpolation}, antialiased",
            "divide by 255, subtract the mean, divide by the deviation",
        ],
        "mean": list(mean),
        "deviation": list(deviation),
    }
