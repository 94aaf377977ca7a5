"""Import of checkpoints of the original SwAV and DeepCluster-v2.

These are flat dictionaries of tensors: torchvision's names for the ResNet, `projection_head.{0,1,3}` for linear, batch norm and
linear, and `prototypes.weight` (SwAV) or `prototypes.prototypes0.weight` and so on (DeepCluster-v2, one per head), with the prefix
`module.` if data parallelism wrote them. The settings of the network follow from the tensors; the other settings are the paper's,
since the file does not contain them.

Source: arXiv 2006.09882. The originals' weights are published under CC BY-NC 4.0; none are shipped here.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from selfcluster import methods
from selfcluster.errors import CheckpointError
from selfcluster.paths import check_checkpoint
from selfcluster.runs.atomic import folder_written_whole
from selfcluster.runs.checkpoint import save_network
from selfcluster.runs.folder import claim, prepare
from selfcluster.runs.run import OpenRun, open_run
from selfcluster.runs.weights import read_tensors, write_model
from selfcluster.settings.config import Config, default_config, flatten, replace
from selfcluster.settings.resolve import ResolvedConfig
from selfcluster.settings.validation import check

_BASIC = ("resnet18", "resnet34")
_BOTTLENECK = (
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
)

_HEAD = {
    "projection_head.0.weight": "head.0.weight",
    "projection_head.0.bias": "head.0.bias",
    "projection_head.1.weight": "head.1.weight",
    "projection_head.1.bias": "head.1.bias",
    "projection_head.1.running_mean": "head.1.running_mean",
    "projection_head.1.running_var": "head.1.running_var",
    "projection_head.1.num_batches_tracked": "head.1.num_batches_tracked",
    "projection_head.3.weight": "head.3.weight",
    "projection_head.3.bias": "head.3.bias",
}
"""Names of the tensors of the projection head here, by the originals' names."""

_STEM_CHANNELS = 64
"""Channels after the stem of a ResNet of normal width; the originals' wider ones have a multiple."""


def import_original(file: str | Path, out: str | Path | None = None) -> OpenRun:
    """Create a run from a checkpoint of the originals.

    Args:
        file: written by torch.save and read with weights_only; a training checkpoint or the published weights.
        out: the run folder; None for runs/<name>-<method>-<n>.
    Returns:
        the run, which can be loaded, evaluated on given images, exported and trained from (--init), but not resumed.
    Raises:
        CheckpointError: the file cannot be read, is not such a checkpoint, contains a network that timm does not have, or the folder is in use.
    """
    check_checkpoint(str(file))
    file = Path(file).expanduser()
    if out is not None and (Path(out).is_file() or (Path(out).is_dir() and any(Path(out).iterdir())) or Path(out).resolve() == Path.cwd()):
        raise CheckpointError(f"{str(out)!r} is in use; choose another --out")
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(file).items()}
    config, from_tensors = _settings(tensors, file)
    model = methods.build_model(config)
    model.load_state_dict(_renamed(tensors, model.state_dict(), file))
    origins = dict.fromkeys(flatten(config), "default") | dict.fromkeys(from_tensors, f"imported from {file.name}")
    path = claim(out, file.name.split(".")[0], config.method, overwrite=False)
    try:
        with folder_written_whole(path) as partial:
            prepare(partial, ResolvedConfig(config, origins), None, imported_from=file.name)
            save_network(partial, config, model)
            write_model(partial, model, config)
    except OSError as error:
        raise CheckpointError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another --out, or free some space") from None
    return open_run(path)


def _settings(tensors: Mapping[str, Tensor], file: Path) -> tuple[Config[Any], list[str]]:
    """Return the config of the network with these tensors, and the names of the settings that follow from the tensors.

    Raises:
        CheckpointError: a tensor is missing or left over (the first of each is named).
    """
    if flat := next((name for name, tensor in tensors.items() if tensor.ndim == 0 and not name.endswith("num_batches_tracked")), None):
        raise CheckpointError(f"{file.name!r} contains {flat!r} as a single number; it is not a checkpoint of SwAV or DeepCluster-v2")
    heads = _prototypes(tensors)
    encoder = _encoder(tensors, file)
    method = "swav" if list(heads) == ["prototypes.weight"] else "deepcluster-v2"
    expected = [*_encoder_shapes(encoder), *_HEAD, *(heads or ["prototypes.weight"])]
    # Checkpoints of old torch versions lack the counters, which eval mode does not need.
    missing = next((name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")), None)
    surplus = next((name for name in tensors if name not in expected), None)
    if missing or surplus:
        mismatch = [f"{missing!r} is missing"] * bool(missing) + [f"{surplus!r} is unexpected"] * bool(surplus)
        raise CheckpointError(
            f"{file.name!r} is not a checkpoint of SwAV or DeepCluster-v2 with a {encoder}: {' and '.join(mismatch)}; "
            f"to use the encoder alone, train from it with --init {file}"
        )
    n_prototypes = tuple(len(rows) for rows in heads.values())
    found = {
        "encoder": encoder,
        "head_width": len(tensors["projection_head.0.weight"]),
        "embedding_width": len(tensors["projection_head.3.weight"]),
        "n_prototypes": n_prototypes[0] if method == "swav" else n_prototypes,
    }
    config = replace(default_config(method), found)
    check(config)
    return config, list(found)


def _prototypes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the prototypes of each head, in the order of the heads."""
    if "prototypes.weight" in tensors:
        return {"prototypes.weight": tensors["prototypes.weight"]}
    names = (f"prototypes.prototypes{head}.weight" for head in itertools.count())
    return {name: tensors[name] for name in itertools.takewhile(tensors.__contains__, names)}


def _encoder(tensors: Mapping[str, Tensor], file: Path) -> str:
    """Return the timm ResNet that has the most of these tensors, in name and shape."""
    stem = tensors.get("conv1.weight")
    if stem is not None and len(stem) != _STEM_CHANNELS:
        n_blocks = sum(name.endswith(".conv3.weight") for name in tensors)
        network = {16: "ResNet-50", 33: "ResNet-101", 50: "ResNet-152"}.get(n_blocks, "ResNet")
        raise CheckpointError(
            f"{file.name!r} contains a {network} of {len(stem) / _STEM_CHANNELS:g} times the normal width ({len(stem)} channels after the stem), "
            "which timm does not have; import the one of normal width"
        )

    def agreement(name: str) -> tuple[int, int]:
        shapes = _encoder_shapes(name)
        return sum(1 for tensor, shape in shapes.items() if tensor in tensors and tensors[tensor].shape == shape), -len(shapes)

    return max(_BOTTLENECK if "layer1.0.conv3.weight" in tensors else _BASIC, key=agreement)


def _encoder_shapes(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):  # names and shapes only
        network = timm.create_model(name, num_classes=0)
    return {tensor: value.shape for tensor, value in network.state_dict().items()}


def _renamed(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Return all tensors under the names of our network.

    Raises:
        CheckpointError: a tensor has another shape than ours.
    """
    heads = _prototypes(tensors)
    for name, rows in heads.items():
        if rows.shape[1:] != ours["prototypes.weight"].shape[1:]:
            raise CheckpointError(
                f"{file.name!r} contains {name!r} with shape {tuple(rows.shape)}, but its head has {ours['prototypes.weight'].shape[1]} outputs"
            )
    encoder = {f"encoder.{name}": tensor for name, tensor in tensors.items() if not name.startswith(("projection_head.", "prototypes."))}
    head = {_HEAD[name]: tensor for name, tensor in tensors.items() if name in _HEAD}
    renamed = {**encoder, **head, "prototypes.weight": torch.cat(list(heads.values()))}
    for name, tensor in renamed.items():
        if tensor.shape != ours[name].shape:
            raise CheckpointError(
                f"{file.name!r} contains {name!r} with shape {tuple(tensor.shape)}, where its other tensors need {tuple(ours[name].shape)}"
            )
    return {name: renamed.get(name, value).to(value.dtype) for name, value in ours.items()}
