"""Encoders: any timm model by name, and models for small images that are registered with timm.

The small ones have a 3 x 3 stem and no max-pooling, so that a 32-pixel image keeps its detail; the narrow ones train on a laptop. Since they
are registered, an exported model loads again with `timm.create_model`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, split_model_name_tag
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from selfcluster.errors import ConfigError, known
from selfcluster.hub import cached_weights_only, is_offline
from selfcluster.models.features import in_mode
from selfcluster.models.idle_taps import keep_idle_taps_in_float32
from selfcluster.models.pretrained import is_bundled, load_bundled
from selfcluster.settings.config import BUNDLED

_CFG = {
    "url": "",
    "num_classes": 0,
    "input_size": (3, 32, 32),
    "pool_size": (4, 4),
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "first_conv": "conv1",
    "classifier": "fc",
}

WEIGHTS_TO_TRAIN_FROM = f"--encoder {BUNDLED}, whose weights come with the install, local weights (--init PATH), or --init random"
WEIGHTS_TO_EXPLORE = f"--encoder {BUNDLED}, whose weights come with the install, --encoder patches, or local weights (--encoder FOLDER)"
WEIGHTS_TO_COMPARE = f"--beside {BUNDLED}, whose weights come with the install, a run folder, or --beside-untrained"
"""What messages suggest to use instead of weights that cannot be had."""

_NAMES = (
    "resnet18_small",
    "resnet18_small_half",
    "resnet18_small_quarter",
    "resnet10_small_quarter",
    "resnet10_small_quarter_s2",
    "resnet10_small_half_s2",
)

# timm reads this name when a model of this module is registered.
default_cfgs = generate_default_cfgs(dict.fromkeys(_NAMES, _CFG))


class SmallResNet(ResNet):
    """timm's ResNet of basic blocks with a stem for small images: 3 x 3, without max-pooling."""

    def __init__(self, *, stem_stride: int = 1, **settings: Any) -> None:
        super().__init__(block=BasicBlock, **settings)
        in_channels, width = settings.get("in_chans", 3), self.bn1.num_features
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=3, stride=stem_stride, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for stage, info in enumerate(self.feature_info):  # the stem, then four stages, all but the first of which halve the side
            info["reduction"] = stem_stride * 2 ** max(0, stage - 1)


def _small_resnet(name: str, blocks: int, width: int, pretrained: bool, settings: dict[str, Any]) -> nn.Module:
    # timm's plain stem has 64 channels at any width; of its deep stem, only the width is used here.
    shape = dict(layers=(blocks,) * 4, stem_type="deep", stem_width=width // 2, channels=tuple(width * 2**stage for stage in range(4)))
    return build_model_with_cfg(SmallResNet, name, pretrained, **{**shape, **settings})


@register_model
def resnet18_small(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ResNet-18 for small images; 11.2 million parameters, 512 features."""
    return _small_resnet("resnet18_small", 2, 64, pretrained, settings)


@register_model
def resnet18_small_half(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ResNet-18 for small images at half the width; 2.8 million parameters, 256 features."""
    return _small_resnet("resnet18_small_half", 2, 32, pretrained, settings)


@register_model
def resnet18_small_quarter(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ResNet-18 for small images at a quarter of the width; 0.7 million parameters, 128 features."""
    return _small_resnet("resnet18_small_quarter", 2, 16, pretrained, settings)


@register_model
def resnet10_small_quarter(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ResNet-10 for small images at a quarter of the width; 0.3 million parameters, 128 features."""
    return _small_resnet("resnet10_small_quarter", 1, 16, pretrained, settings)


@register_model
def resnet10_small_quarter_s2(pretrained: bool = False, **settings: Any) -> nn.Module:
    """`resnet10_small_quarter` with a stem of stride 2, four times as fast: for upscaled images, such as the digits."""
    return _small_resnet("resnet10_small_quarter_s2", 1, 16, pretrained, {"stem_stride": 2, **settings})


@register_model
def resnet10_small_half_s2(pretrained: bool = False, **settings: Any) -> nn.Module:
    """ResNet-10 at half the width with a stem of stride 2; 1.2 million parameters, 256 features: for photos without a GPU."""
    return _small_resnet("resnet10_small_half_s2", 1, 32, pretrained, {"stem_stride": 2, **settings})


def create_encoder(
    name: str,
    crop_pixels: tuple[int, ...] = (),
    *,
    channels: int = 3,
    arguments: str = "",
    pretrained: bool = False,
    instead: str = WEIGHTS_TO_TRAIN_FROM,
) -> nn.Module:
    """Build a timm model without its classifier, and check that it accepts crops of these sizes.

    Models with position embeddings accept other sizes than their own by timm's `dynamic_img_size`.

    Args:
        name: timm's name, optionally with a tag.
        crop_pixels: sides of the crops.
        channels: channels of the input.
        arguments: further arguments of the model, as JSON.
        pretrained: whether to load timm's weights, downloading them if necessary.
        instead: what the message suggests to use if the weights cannot be downloaded.
    Raises:
        ConfigError: the name is unknown to timm, the weights cannot be downloaded, or the model does not accept one of the sizes.
    """
    if Path(name).expanduser().exists() and not timm.is_model(name):
        raise ConfigError(f"encoder {name!r} is a path; pass it as --init, which sets the encoder too")
    known(split_model_name_tag(name)[0], timm.list_models(), "encoder")
    encoder = _create(name, channels, {"dynamic_img_size": True, **json.loads(arguments or "{}")}, pretrained, instead)
    refused = {size: reason for size in crop_pixels if (reason := why_refused(encoder, size, channels=channels))}
    if refused:
        sizes = ", ".join(f"{size} px" for size in refused)
        raise ConfigError(
            f"encoder {name!r} does not accept crops of {sizes} ({next(iter(refused.values()))}); set crop_pixels to other sizes, or use a ResNet"
        )
    return encoder


def _create(name: str, channels: int, arguments: dict[str, Any], pretrained: bool, instead: str) -> nn.Module:
    bundled = pretrained and is_bundled(name) and channels == 3
    downloads = pretrained and not bundled
    if downloads and not timm.is_model_pretrained(name):
        tags = timm.list_pretrained(f"{split_model_name_tag(name)[0]}.*")[:3]
        raise ConfigError(f"timm has no pretrained weights for {name!r}; use {', '.join([*tags, instead])}")
    offline = downloads and is_offline()
    for dropped in ((), ("dynamic_img_size",)):
        own = {key: value for key, value in arguments.items() if key not in dropped}
        try:
            with cached_weights_only() if offline else contextlib.nullcontext():
                encoder = timm.create_model(name, pretrained=downloads, **own, num_classes=0, in_chans=channels)
        except TypeError:
            continue
        except Exception as error:  # huggingface_hub raises many kinds of errors when weights cannot be downloaded
            if offline:
                raise ConfigError(
                    f"cannot download the pretrained weights of {name!r}: there is no connection to the hub, and they are not cached; use {instead}"
                ) from None
            what, reason = "pretrained weights of" if pretrained else "encoder", " ".join(str(error).split())[:200]
            raise ConfigError(f"cannot get {what} {name!r} from timm: {reason}; check the name, or use {instead}") from None
        if bundled:
            load_bundled(encoder)
        keep_idle_taps_in_float32(encoder)
        return encoder
    given = f" and with the arguments {json.dumps(own)}" if own else ""
    raise ConfigError(f"encoder {name!r} cannot be built without a classifier{given}; choose another")


def why_refused(encoder: nn.Module, size: int, *, channels: int = 3) -> str | None:
    """Return why the encoder does not turn a crop of this size into one feature vector; None if it does."""
    try:
        features = _probe(encoder, size, channels)
    except Exception as error:  # models reject a size by assertion, by shape mismatch and in other ways
        return " ".join(str(error).split())[:160] or type(error).__name__
    return None if features.ndim == 2 else f"its output has shape {tuple(features.shape)} instead of one vector"


def suitable_side(encoder: nn.Module, wanted: int, *, of_weights: int, channels: int = 3) -> int:
    """Return the side nearest to the wanted one that the encoder takes: a multiple of its patches, or that of its weights if it is fixed.

    Args:
        encoder: from `create_encoder`.
        wanted: side that is wanted, in pixels.
        of_weights: side that the weights were trained with.
        channels: channels of the input.
    """
    if not getattr(encoder, "dynamic_img_size", False):
        return of_weights if encoder.pretrained_cfg.get("fixed_input_size") else wanted  # type: ignore[union-attr, operator]
    patch = encoder.patch_embed.feat_ratio()  # type: ignore[union-attr, operator]
    nearest = max(1, round(wanted / patch)) * patch
    return nearest if why_refused(encoder, nearest, channels=channels) is None else of_weights


def compile_encoder(encoder: nn.Module) -> None:
    """Compile the encoder when it is first used; compiled code is cached for later runs.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name):
        raise ConfigError("--compile needs a C++ compiler, and neither g++ nor clang++ is installed; install one, or leave out --compile")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path("~/.cache/selfcluster/compiled").expanduser()))
    encoder.compile()


def recompute_activations(encoder: nn.Module, name: str) -> None:
    """Recompute most activations of the encoder in the backward pass instead of storing them.

    Raises:
        ConfigError: timm does not support this for the encoder.
    """
    try:
        encoder.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        raise ConfigError(
            f"encoder {name!r} does not support recomputing its activations; leave out --recompute, or set --accumulate 2 or more"
        ) from None


def feature_width(encoder: nn.Module, size: int, *, channels: int = 3) -> int:
    """Return the number of features that the encoder computes for a crop of this size."""
    return _probe(encoder, size, channels).shape[1]


def _probe(encoder: nn.Module, size: int, channels: int) -> Tensor:
    device = next(itertools.chain(encoder.parameters(), encoder.buffers()), torch.empty(0)).device
    with torch.no_grad(), in_mode(encoder, training=False):
        return encoder(torch.zeros(1, channels, size, size, device=device))
