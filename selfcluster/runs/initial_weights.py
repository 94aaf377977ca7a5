"""What initial weights say about themselves: the network that they belong to, and how images were prepared for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from timm.models import split_model_name_tag

from selfcluster.distributed import logger
from selfcluster.errors import ConfigError
from selfcluster.models.pretrained import Preparation, preparation_of
from selfcluster.runs.folder import read_config
from selfcluster.runs.json_files import read_json

_SET_BY_US = ("num_classes", "in_chans", "dynamic_img_size")
"""Arguments of a timm model that `create_encoder` sets itself."""


def network_of(init: str) -> dict[str, Any]:
    """Return the settings of the network that weights belong to; empty if they do not name it.

    Args:
        init: as in `load_initial_weights`; a run folder, a folder in timm's layout and a timm name tell their network.
    Raises:
        CheckpointError: the description in the folder is damaged.
        ConfigError: the network does not take three channels.
    """
    if init in ("random", "pretrained"):  # also where a folder is called so
        return {}
    path = Path(init).expanduser()
    if (path / "config.toml").is_file():
        network = read_config(path)[0].model
        return {name: getattr(network, name) for name in ("encoder", "encoder_arguments", "sobel")}
    if (described := _timm_config(path)) is None:
        architecture, _ = split_model_name_tag(init)
        return {"encoder": architecture} if timm.is_model(architecture) and not path.exists() else {}
    preparation, arguments = described.get("pretrained_cfg", described), described.get("model_args", {})
    channels = arguments.get("in_chans", 3)
    takes_edges = channels == 2 and preparation.get("tag") == "selfcluster"
    if channels != 3 and not takes_edges:
        raise ConfigError(f"the encoder in {init!r} takes {channels} channels, but images have 3; use another one")
    if "mean" not in preparation:
        logger.info(f"{init} does not tell how its images were normalized; ImageNet's mean and deviation are used")
    own = {name: value for name, value in arguments.items() if name not in _SET_BY_US}
    return {"encoder": described["architecture"], "encoder_arguments": json.dumps(own) if own else "", "sobel": takes_edges}


def preparation_for(encoder: str, init: str) -> Preparation | None:
    """Return how images were prepared for the weights; None if they are random or unknown to timm.

    Args:
        encoder: timm's name of the network; its usual preparation is that of a file, which does not contain one.
        init: as in `load_initial_weights`.
    """
    path = Path(init).expanduser()
    if init in ("random", "pretrained"):
        return preparation_of(encoder) if init == "pretrained" else None
    if (path / "config.toml").is_file():
        config = read_config(path)[0]
        m = config.model
        return Preparation(m.pixel_mean, m.pixel_deviation, m.interpolation, config.crops.crop_pixels[0])
    if (described := _timm_config(path)) is not None:
        return Preparation.from_timm(described.get("pretrained_cfg", described))
    return preparation_of(encoder if path.exists() else init)


def _timm_config(path: Path) -> dict[str, Any] | None:
    """Return the description of weights in timm's layout, given their folder or their file; None if there is none."""
    file = (path.parent if path.name == "model.safetensors" else path) / "config.json"
    return read_json(file, "architecture", advice="save the model again by timm's save_for_hf") if file.is_file() else None
