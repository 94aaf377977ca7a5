"""torchvision's layout: a ResNet's tensors, for `torchvision.models.resnet50` and similar.

timm's plain ResNets and torchvision's have the same tensors under the same names. Variants with another stem or other blocks do not,
and are refused.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torchvision
from safetensors.torch import load_file, save
from timm.models import split_model_name_tag
from torch import nn

from selfcluster.errors import ConfigError
from selfcluster.exporters.verification import Difference, Source, difference, preprocessing, probe
from selfcluster.models.encoders import default_cfgs
from selfcluster.settings.config import Config

FILES: tuple[str, ...] = ("model.safetensors", "preprocessing.json")

SHARED = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
"""Networks that are identical in timm and in torchvision."""


def write(folder: Path, source: Source) -> Difference:
    """Write the encoder's tensors, load them strictly into torchvision's network without its classifier, and compare the features."""
    tensors = {name: tensor.contiguous() for name, tensor in source.network.encoder.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    description = {"network": f"torchvision.models.{source.encoder_name}", "output": "features"}
    description |= preprocessing(source, mean=source.config.model.pixel_mean, deviation=source.config.model.pixel_deviation)
    (folder / "preprocessing.json").write_text(json.dumps(description, indent=1))
    network = torchvision.models.get_model(source.encoder_name, weights=None)
    network.fc = nn.Identity()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return difference(network.eval(), source.network.encoder, probe(source))


def check(config: Config[Any]) -> None:
    """Raise ConfigError if torchvision does not have the network."""
    if config.model.sobel:
        raise ConfigError("torchvision's networks take colors, but this run's encoder takes edges (sobel); use --format timm or onnx")
    name, _ = split_model_name_tag(config.model.encoder)
    if name in SHARED and not config.model.encoder_arguments:
        return
    if config.model.encoder_arguments:
        why = f"it has the arguments {config.model.encoder_arguments}"
    elif name in default_cfgs:
        why = "its stem is 3 x 3, without max-pooling"
    elif "resne" in name:
        why = "its stem or blocks differ from those of torchvision's ResNets"
    else:
        why = "only plain ResNets have the same tensors in timm and torchvision"
    raise ConfigError(f"encoder {name!r} is not a torchvision architecture: {why}; use --format timm or onnx")


def notes(source: Source) -> tuple[str, ...]:
    """Return what the user of the file has to know."""
    return ("fc.weight and fc.bias are missing, since the run has no classifier",)


def next_step(path: Path, source: Source) -> str:
    """Return the code that loads the encoder."""
    loaded = f"safetensors.torch.load_file({str(path / 'model.safetensors')!r})"
    return (
        f"next, in Python: import torch, torchvision, safetensors.torch; encoder = torchvision.models.{source.encoder_name}(); "
        f"encoder.fc = torch.nn.Identity(); encoder.load_state_dict({loaded}); encoder.eval()"
    )
