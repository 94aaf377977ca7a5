"""Networks of timm to compare a run's encoder with, pretrained or untrained, prepared as their weights want it."""

from __future__ import annotations

import dataclasses
import logging

import timm
import torch
from jaxtyping import Float
from timm.models import split_model_name_tag
from torch import Tensor, nn

from selfcluster import randomness
from selfcluster.errors import ConfigError, known
from selfcluster.models.encoders import WEIGHTS_TO_COMPARE, create_encoder, feature_width
from selfcluster.models.filters import Renormalize
from selfcluster.models.model import ClusterModel
from selfcluster.models.pretrained import Preparation


class TimmEncoder(nn.Module):
    """A timm network, which takes images normalized by ImageNet's mean and deviation whatever its own normalization.

    Args:
        encoder: the network, without its classifier.
        preparation: what it expects.
    """

    def __init__(self, encoder: nn.Module, preparation: Preparation) -> None:
        super().__init__()
        self.encoder, self.pixels, self.n_features = encoder, preparation.pixels, feature_width(encoder, preparation.pixels)
        self.interpolation = preparation.interpolation
        self.renormalize = Renormalize(preparation.mean, preparation.deviation)

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
    preparation = Preparation.from_timm(settings.to_dict() if settings is not None else {})
    if pixels is not None:
        preparation = dataclasses.replace(preparation, pixels=pixels)
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # the hub's warnings repeat what the error says
        with randomness.forked(seed):
            encoder = create_encoder(name, (preparation.pixels,), pretrained=not untrained, instead=WEIGHTS_TO_COMPARE)
    finally:
        logging.disable(before)
    return TimmEncoder(encoder.to(memory_format=torch.channels_last), preparation)  # nearly twice as fast on a CPU
