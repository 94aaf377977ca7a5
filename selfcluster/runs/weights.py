"""Weights of an encoder: where a run starts from, and as timm loads them. All of an encoder is loaded, or it is an error."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from selfcluster.data.crops import DEVIATION, MEAN
from selfcluster.errors import CheckpointError, ConfigError
from selfcluster.models.model import ClusterModel
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.checkpoint import load_checkpoint
from selfcluster.settings.config import Config

_PREFIXES = ("", "module.", "encoder.", "model.", "backbone.", "module.encoder.")
_NOT_ENCODER = ("fc.", "head.", "classifier.", "projection_head.", "prototypes.")


def load_initial_weights(model: ClusterModel, init: str) -> None:
    """The model starts from what `--init` names.

    Args:
        init: "random" or "pretrained" (both done when the encoder was made), a run folder, a weights file (safetensors, or a
            checkpoint that torch reads with weights_only), or a timm name with a tag, whose weights are downloaded.
    Raises:
        ConfigError: none of these.
        CheckpointError: a file that cannot be read, or that does not hold every tensor of the encoder.
    """
    if init in ("random", "pretrained"):
        return
    path = Path(init).expanduser()
    if path.is_dir():
        load_encoder(model, _of_run(path), init)
    elif path.is_file():
        load_encoder(model, read_tensors(path), init)
    elif timm.is_model(init.split(".")[0]):
        load_encoder(model, _from_timm(init), init)
    else:
        raise ConfigError(f"init {init!r} is no run folder, weights file or timm name; use random, pretrained, or one of these")


def _from_timm(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # huggingface_hub raises many kinds when weights are not to be had
        raise ConfigError(
            f"cannot get the weights of {name!r} from timm: {' '.join(str(error).split())[:200]}; check the name and the network"
        ) from None


def _of_run(folder: Path) -> dict[str, Tensor]:
    """The encoder in model/, or, where a run is half trained or was exported whole, the network of its checkpoint."""
    if not (folder / "model").exists() and (folder / "checkpoints" / "last.json").is_file():
        return load_checkpoint(folder / "checkpoints")[0]["model"]
    return read_tensors(folder / "model" / "model.safetensors")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name: safetensors, or a checkpoint that torch reads with weights_only.

    Raises:
        CheckpointError: it cannot be read, or holds no dictionary.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:  # whose message advises to trust the file
        raise CheckpointError(
            f"cannot read weights from {str(file)!r}: it is no checkpoint, or holds more than tensors and plain values; save its state_dict alone"
        ) from None
    except Exception as error:  # a damaged file raises nearly anything
        raise CheckpointError(f"cannot read weights from {str(file)!r}: {' '.join(str(error).split())[:200]}") from None
    for key in ("state_dict", "model", "model_state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(file)!r} holds a {type(content).__name__}, not a dictionary of tensors")
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def load_encoder(model: ClusterModel, tensors: dict[str, Tensor], source: str) -> None:
    """Every tensor of the encoder comes from these, whatever prefix they stand under.

    Raises:
        CheckpointError: one is missing or of another shape (the first is named), or some are left over.
    """
    wanted = model.encoder.state_dict()

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    found = max((under(prefix) for prefix in _PREFIXES), key=lambda named: len(wanted.keys() & named.keys()))
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    for name, value in wanted.items():
        if name not in found and name not in optional:
            raise CheckpointError(
                f"{source!r} does not hold the encoder's tensor {name!r}; it is of another network, or --encoder is wrong"
            )
        if name in found and found[name].shape != value.shape:
            raise CheckpointError(
                f"{source!r} holds {name!r} with shape {tuple(found[name].shape)}, the encoder wants {tuple(value.shape)}"
            )
    surplus = [name for name in found if name not in wanted and not name.startswith(_NOT_ENCODER)]
    if surplus:
        raise CheckpointError(
            f"{source!r} holds {surplus[0]!r}, which the encoder has not; it is of another network, or --encoder is wrong"
        )
    model.encoder.load_state_dict({name: found.get(name, value) for name, value in wanted.items()})


def write_model(folder: Path, model: ClusterModel, config: Config[Any]) -> None:
    """model/ holds the encoder; see `write_encoder`."""
    (folder / "model").mkdir(exist_ok=True)
    write_encoder(folder / "model", model, config)


def write_encoder(target: Path, model: ClusterModel, config: Config[Any]) -> None:
    """The folder holds the encoder as `timm.create_model('local-dir:...')` loads it: model.safetensors and config.json."""
    own = getattr(model.encoder, "pretrained_cfg", {})
    side = config.crops.crop_pixels[0]
    description = {
        "architecture": config.model.encoder.split(".")[0],
        "num_classes": 0,
        "num_features": model.n_features,
        "pretrained_cfg": {
            **{key: own[key] for key in ("pool_size", "first_conv", "classifier") if key in own},
            "input_size": [2 if config.model.sobel else 3, side, side],
            "mean": list(MEAN),
            "std": list(DEVIATION),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "num_classes": 0,
            "tag": "selfcluster",
        },
    }
    arguments: dict[str, Any] = {"dynamic_img_size": True} if getattr(model.encoder, "dynamic_img_size", False) else {}
    if config.model.sobel:
        arguments["in_chans"] = 2  # edges: what `model.Sobel` makes of an image
    if arguments:
        description["model_args"] = arguments
    encoder = {name: tensor.detach().cpu().contiguous() for name, tensor in model.encoder.state_dict().items()}
    write_atomically(target / "model.safetensors", save(encoder, metadata={"format": "pt"}))
    write_atomically(target / "config.json", json.dumps(description, indent=1).encode())
