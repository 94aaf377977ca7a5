"""The methods by name; each is one file with one final class."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from selfcluster import randomness
from selfcluster.methods.base import Method
from selfcluster.methods.deepcluster import DeepCluster
from selfcluster.methods.deepcluster_v2 import DeepClusterV2
from selfcluster.methods.sela_v2 import SelaV2
from selfcluster.methods.swav import SwAV
from selfcluster.models.encoders import create_encoder, feature_width
from selfcluster.models.heads import Center, Prototypes
from selfcluster.models.model import ClusterModel
from selfcluster.settings.config import Config

METHODS: dict[str, type[Method[Any]]] = {
    "swav": SwAV,
    "deepcluster": DeepCluster,
    "deepcluster-v2": DeepClusterV2,
    "sela-v2": SelaV2,
}


def untrained_network(config: Config[Any], encoder: nn.Module, n_features: int) -> ClusterModel:
    """Build the network of a run without training: centered features, and clusters of them as prototypes."""
    m = config.model
    return ClusterModel(
        encoder,
        n_features,
        head=Center(n_features),
        prototypes=Prototypes(config.n_prototypes, n_features),
        n_assign=1,
        mean=m.pixel_mean,
        deviation=m.pixel_deviation,
        sobel=m.sobel,
    )


def build_model(config: Config[Any], encoder: nn.Module | None = None) -> ClusterModel:
    """Build the network on the CPU, in channels-last layout; its initial weights are a function of the seed.

    Args:
        config: settings of the run.
        encoder: a finished encoder; None to create it.
    """
    with torch.random.fork_rng(devices=[]):
        randomness.reseed(config.run.seed)
        channels = 2 if config.model.sobel else 3
        if encoder is None:
            m = config.model
            encoder = create_encoder(
                m.encoder, config.crops.crop_pixels, channels=channels, arguments=m.encoder_arguments, pretrained=m.init == "pretrained"
            )
        width = feature_width(encoder, config.crops.crop_pixels[0], channels=channels)
        network = METHODS[config.method].network if config.method in METHODS else untrained_network
        model = network(config, encoder, width)
    return model.to(memory_format=torch.channels_last)


__all__ = ["METHODS", "Method", "build_model"]
