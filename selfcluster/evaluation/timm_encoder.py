"""Networks of timm to compare a run's encoder with, pretrained or untrained, with their own normalization and, unless told otherwise, at their native input size."""

from __future__ import annotations

import logging

import timm
import torch
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import split_model_name_tag
from torch import Tensor, nn

from selfcluster import randomness
from selfcluster.errors import ConfigError, known
from selfcluster.models.encoders import create_encoder, feature_width
from selfcluster.models.model import ClusterModel, Renormalize


class TimmEncoder(nn.Module):
    """A timm network, which takes images normalized by ImageNet's mean and deviation whatever its own normalization.

    Args:
        encoder: the network, without its classifier.
        pixels: side of the images that it takes.
    """

    def __init__(self, encoder: nn.Module, pixels: int) -> None:
        super().__init__()
        self.encoder, self.pixels, self.n_features = encoder, pixels, feature_width(encoder, pixels)
        own = getattr(encoder, "pretrained_cfg", {})
        self.renormalize = Renormalize(own.get("mean", IMAGENET_DEFAULT_MEAN), own.get("std", IMAGENET_DEFAULT_STD))

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        """Return the features of images that are normalized by ImageNet's mean and deviation."""
        return self.encoder(self.renormalize(images))


Encoder = ClusterModel | TimmEncoder
"""A network with `encode`, from normalized images to features, and `n_features`."""


def timm_encoder(name: str, *, untrained: bool, seed: int, pixels: int | None = None) -> TimmEncoder:
    """Create a network of timm.

    Args:
        name: timm's name, with or without a tag.
        untrained: keep random weights; otherwise load the pretrained ones, downloading them if needed.
        seed: random seed of the weights.
        pixels: side of the images that it takes; None for its native one.
    Raises:
        ConfigError: the name is unknown, or there are no pretrained weights or they cannot be downloaded.
    """
    architecture, _ = split_model_name_tag(name)
    known(architecture, timm.list_models(), "encoder")
    try:
        settings = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")[:6])
        raise ConfigError(f"{' '.join(str(error).split())[:160]} Choose from {tags}") from None
    if not untrained and (settings is None or not settings.has_weights):
        raise ConfigError(f"timm has no pretrained weights for {name!r}; choose another network, or add --beside-untrained")
    pixels = pixels or (int(settings.input_size[-1]) if settings is not None else 224)
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # the hub's warnings repeat what the error says
        with randomness.forked(seed):
            encoder = create_encoder(name, (pixels,), pretrained=not untrained, without_weights="--beside-untrained")
    finally:
        logging.disable(before)
    return TimmEncoder(encoder.to(memory_format=torch.channels_last), pixels)  # nearly twice as fast on a CPU
