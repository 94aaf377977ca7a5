"""Encoder weights: starting weights are loaded, and trained ones are written in timm's format."""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors.torch import load_file, save
from timm.models import split_model_name_tag
from torch import Tensor, nn

from selfcluster.errors import CheckpointError, ConfigError
from selfcluster.models.encoders import WEIGHTS_TO_TRAIN_FROM, create_encoder
from selfcluster.models.model import ClusterModel
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.checkpoint import load_checkpoint
from selfcluster.runs.json_files import write_json
from selfcluster.settings.config import Config

_PREFIXES = ("", "module.", "encoder.", "model.", "backbone.", "module.encoder.")
_NOT_PLAIN = (
    "cannot read weights from {!r}: it is not a checkpoint, or contains more than tensors and plain values; save its state_dict alone"
)
_NOT_ENCODER = ("fc.", "head.", "classifier.", "projection_head.", "prototypes.")


def load_initial_weights(encoder: nn.Module, init: str, *, instead: str = WEIGHTS_TO_TRAIN_FROM) -> None:
    """Load the starting weights that `--init` names.

    Args:
        encoder: into which they are loaded.
        init: "random" or "pretrained" (for both there is nothing to do here), a run folder, a folder in timm's layout, a weights file
            (safetensors, or a checkpoint that torch reads with weights_only), or a timm name with a tag, whose weights are downloaded.
        instead: what the message suggests to use if they cannot be downloaded.
    Raises:
        ConfigError: none of these, or a download that failed.
        CheckpointError: a file that cannot be read, or that does not contain every tensor of the encoder.
    """
    if init in ("random", "pretrained"):
        return
    path = Path(init).expanduser()
    if path.is_dir() and not (path / "model").exists() and (path / "checkpoints" / "last.json").is_file():
        tensors = load_checkpoint(path)[0]["model"]  # the run is partly trained, or was exported whole
    elif (path / "config.json").is_file():
        tensors = _read_timm_folder(path)
    elif path.is_dir():
        tensors = read_tensors(path / "model" / "model.safetensors")
    elif path.is_file():
        tensors = read_tensors(path)
    elif timm.is_model(split_model_name_tag(init)[0]):
        tensors = create_encoder(init, pretrained=True, instead=instead).state_dict()
    else:
        raise ConfigError(
            f"init {init!r} is not a run folder, weights file or timm name; use one of these, hf-hub:OWNER/NAME, random or pretrained"
        )
    load_encoder(encoder, tensors, init)


def _read_timm_folder(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder in timm's layout, as timm reads them: it renames those of some other libraries.

    Raises:
        CheckpointError: the files cannot be read, or do not belong together.
    """
    try:
        return timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    except UnpicklingError:
        raise CheckpointError(_NOT_PLAIN.format(str(folder))) from None
    except Exception as error:  # a damaged file, an unknown architecture or argument, and other tensors each raise their own
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"cannot load the weights in {str(folder)!r} into the network of its config.json: {reason}") from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name: safetensors, or a checkpoint that torch reads with weights_only.

    Raises:
        CheckpointError: the file cannot be read, or does not contain a dictionary.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:  # its message advises to trust the file
        raise CheckpointError(_NOT_PLAIN.format(str(file))) from None
    except Exception as error:  # a damaged file raises many types
        raise CheckpointError(f"cannot read weights from {str(file)!r}: {' '.join(str(error).split())[:200]}") from None
    for key in ("state_dict", "model", "model_state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(file)!r} contains a {type(content).__name__}, not a dictionary of tensors; save a state_dict")
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}


def load_encoder(encoder: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load all tensors of the encoder.

    Args:
        encoder: into which they are loaded.
        tensors: by name, with or without one of the usual prefixes.
        source: where they come from, for messages.
    Raises:
        CheckpointError: a tensor is missing, has the wrong shape, or does not belong to the encoder (the first is named).
    """
    wanted = encoder.state_dict()

    candidates = ({name.removeprefix(p): value for name, value in tensors.items() if name.startswith(p)} for p in _PREFIXES)
    found = max(candidates, key=lambda named: len(wanted.keys() & named.keys()))
    for name, value in wanted.items():
        if name not in found and not name.endswith("num_batches_tracked"):
            raise CheckpointError(f"{source!r} does not contain the encoder's tensor {name!r}; use the --encoder that it belongs to")
        if name in found and found[name].shape != value.shape:
            raise CheckpointError(
                f"{source!r} contains {name!r} with shape {tuple(found[name].shape)}, the encoder needs {tuple(value.shape)}; "
                "use the --encoder that it belongs to"
            )
    surplus = [name for name in found if name not in wanted and not name.startswith(_NOT_ENCODER)]
    if surplus:
        raise CheckpointError(f"{source!r} contains {surplus[0]!r}, which the encoder does not have; use the --encoder that it belongs to")
    encoder.load_state_dict({name: found.get(name, value) for name, value in wanted.items()})


def write_model(folder: Path, model: ClusterModel, config: Config[Any]) -> None:
    """Write the encoder into model/ of a run folder, see `write_encoder`."""
    (folder / "model").mkdir(exist_ok=True)
    write_encoder(folder / "model", model, config)


def is_written(folder: Path) -> bool:
    """Return whether model/ of a run folder is as new as its last checkpoint."""
    written, last = folder / "model" / "config.json", folder / "checkpoints" / "last.json"
    return written.is_file() and written.stat().st_mtime_ns >= last.stat().st_mtime_ns


def write_encoder(target: Path, model: ClusterModel, config: Config[Any]) -> None:
    """Write model.safetensors and config.json, as `timm.create_model('local-dir:...')` loads them."""
    own = getattr(model.encoder, "pretrained_cfg", {})
    # Up to 1.0.30, timm takes a first layer that is named to have been trained on three channels, and replaces that of edges by random weights.
    kept = ("pool_size", "classifier") if config.model.sobel else ("pool_size", "first_conv", "classifier")
    side = config.crops.crop_pixels[0]
    description = {
        "architecture": config.model.encoder.split(".")[0],
        "num_classes": 0,
        "num_features": model.n_features,
        "pretrained_cfg": {
            **{key: own[key] for key in kept if key in own},
            "input_size": [2 if config.model.sobel else 3, side, side],
            "mean": list(config.model.pixel_mean),
            "std": list(config.model.pixel_deviation),
            "interpolation": config.model.interpolation,
            "crop_pct": 1.0,
            "num_classes": 0,
            "tag": "selfcluster",
        },
    }
    arguments = json.loads(config.model.encoder_arguments or "{}")
    if getattr(model.encoder, "dynamic_img_size", False):
        arguments["dynamic_img_size"] = True
    if config.model.sobel:
        arguments["in_chans"] = 2  # the output of `model.Sobel`
    if arguments:
        description["model_args"] = arguments
    encoder = {name: tensor.detach().cpu().contiguous() for name, tensor in model.encoder.state_dict().items()}
    write_atomically(target / "model.safetensors", save(encoder, metadata={"format": "pt"}))
    write_json(target / "config.json", description)
