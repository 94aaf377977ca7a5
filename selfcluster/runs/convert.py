"""Checkpoints of the original SwAV and DeepCluster-v2, read into runs.

They are flat dictionaries of tensors: torchvision's names for the ResNet, `projection_head.{0,1,3}` for linear, batch norm and
linear, and `prototypes.weight` (SwAV) or `prototypes.prototypes0.weight` and so on (DeepCluster-v2, one for each head), each behind
`module.` where it was written by data parallelism. What the network looks like is read from the tensors themselves; of how it was
trained the file tells nothing, so the other settings of the run are the paper's.

Source: arXiv 2006.09882. The originals' weights are published under CC BY-NC 4.0; none are shipped here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from selfcluster import methods
from selfcluster.errors import CheckpointError
from selfcluster.models.model import Prototypes
from selfcluster.runs import checkpoint, folder, weights
from selfcluster.runs.atomic import folder_written_whole
from selfcluster.runs.run import OpenRun, open_run
from selfcluster.runs.weights import read_tensors
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
"""Our names for the originals' projection head."""

_STEM_CHANNELS = 64
"""Of a ResNet of normal width; the originals' wider ones have a multiple."""


def import_original(file: str | Path, out: str | Path | None = None) -> OpenRun:
    """A run with the weights of an original's checkpoint.

    Args:
        file: as torch.save wrote it, read with weights_only; the training checkpoint or the published weights.
        out: the run's folder; None for runs/<name>-<method>-<n>.
    Returns:
        the run: it can be loaded, evaluated on given images, exported and trained from (--init), but not resumed.
    Raises:
        CheckpointError: the file cannot be read, is no such checkpoint, holds a network that timm has not, or the folder is in use.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise CheckpointError(f"no file {str(file)!r}; give a checkpoint of SwAV or DeepCluster-v2 as the originals wrote it")
    if out is not None:
        _require_free(Path(out))
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(file).items()}
    config, told = _settings(tensors, file)
    model = methods.build_model(config)
    model.load_state_dict(_renamed(tensors, model.state_dict(), file))
    assert isinstance(model.prototypes, Prototypes)
    model.prototypes.normalize()
    origins = dict.fromkeys(flatten(config), "default") | dict.fromkeys(told, f"imported from {file.name}")
    path = folder.claim(out, file.name.split(".")[0], config.method, overwrite=False)
    try:
        with folder_written_whole(path) as partial:
            folder.prepare(partial, ResolvedConfig(config, origins), None, imported_from=file.name)
            checkpoint.save_network(partial, config, model)
            weights.write_model(partial, model, config)
    except OSError as error:
        raise CheckpointError(f"cannot write {str(path)!r}: {error.strerror or error}; choose another --out, or make room") from None
    return open_run(path)


def _require_free(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())) or out.resolve() == Path.cwd():
        raise CheckpointError(f"{str(out)!r} is in use; choose another --out")


def _settings(tensors: Mapping[str, Tensor], file: Path) -> tuple[Config[Any], list[str]]:
    """The config of the network that these tensors are of, and the names of the settings that they tell.

    Raises:
        CheckpointError: they are of no network of the originals.
    """
    heads = _prototypes(tensors)
    encoder = _encoder(tensors, file)
    method = "swav" if list(heads) == ["prototypes.weight"] else "deepcluster-v2"
    _require_all(tensors, [*_encoder_shapes(encoder), *_HEAD, *(heads or ["prototypes.weight"])], encoder, file)
    n_prototypes = tuple(len(rows) for rows in heads.values())
    told = {
        "encoder": encoder,
        "head_width": len(tensors["projection_head.0.weight"]),
        "embedding_width": len(tensors["projection_head.3.weight"]),
        "n_prototypes": n_prototypes[0] if method == "swav" else n_prototypes,
    }
    config = replace(default_config(method), told)
    check(config)
    return config, list(told)


def _prototypes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The prototypes of each head, in the order of the heads."""
    if "prototypes.weight" in tensors:
        return {"prototypes.weight": tensors["prototypes.weight"]}
    numbered = {int(found[1]): name for name in tensors if (found := re.fullmatch(r"prototypes\.prototypes(\d+)\.weight", name))}
    return {numbered[head]: tensors[numbered[head]] for head in sorted(numbered)}


def _encoder(tensors: Mapping[str, Tensor], file: Path) -> str:
    """The timm ResNet that has the most of these tensors, in name and shape."""
    stem = tensors.get("conv1.weight")
    if stem is not None and len(stem) != _STEM_CHANNELS:
        deep = sum(1 for name in tensors if re.fullmatch(r"layer\d\.\d+\.conv3\.weight", name))
        what = {16: "a ResNet-50", 33: "a ResNet-101", 50: "a ResNet-152"}.get(deep, "a ResNet")
        raise CheckpointError(
            f"{file.name!r} holds {what} of {len(stem) / _STEM_CHANNELS:g} times the normal width ({len(stem)} channels after the stem), which timm has not; "
            "import the one of normal width"
        )
    kin = _BOTTLENECK if "layer1.0.conv3.weight" in tensors else _BASIC

    def agreeing(name: str) -> tuple[int, int]:
        shapes = _encoder_shapes(name)
        same = sum(1 for tensor, shape in shapes.items() if tensor in tensors and tensors[tensor].shape == shape)
        return same, -len(shapes)

    return max(kin, key=agreeing)


def _encoder_shapes(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):  # names and shapes only
        network = timm.create_model(name, num_classes=0)
    return {tensor: value.shape for tensor, value in network.state_dict().items()}


def _require_all(tensors: Mapping[str, Tensor], wanted: list[str], encoder: str, file: Path) -> None:
    """Raises CheckpointError where a tensor is missing or left over; the first of each is named."""
    missing = next((name for name in wanted if name not in tensors and not _may_lack(name)), None)
    surplus = next((name for name in tensors if name not in wanted), None)
    said = [f"lacks {missing!r}"] if missing else []
    said += [f"holds {surplus!r} besides"] if surplus else []
    if said:
        raise CheckpointError(
            f"{file.name!r} is no checkpoint of SwAV or DeepCluster-v2: as one with a {encoder} it {' and '.join(said)}; "
            f"for the encoder alone, train from it by --init {file}"
        )


def _may_lack(name: str) -> bool:
    """Counters that checkpoints of old torch versions have not, and eval mode does not need."""
    return name.endswith("num_batches_tracked")


def _renamed(tensors: Mapping[str, Tensor], ours: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors under our names, all of them, in the shapes of our network.

    Raises:
        CheckpointError: one has another shape.
    """
    heads = _prototypes(tensors)
    for name, rows in heads.items():
        if rows.shape[1:] != ours["prototypes.weight"].shape[1:]:
            raise CheckpointError(
                f"{file.name!r} holds {name!r} with shape {tuple(rows.shape)}, its head gives {ours['prototypes.weight'].shape[1]}"
            )
    encoder = {f"encoder.{name}": tensor for name, tensor in tensors.items() if not name.startswith(("projection_head.", "prototypes."))}
    head = {_HEAD[name]: tensor for name, tensor in tensors.items() if name in _HEAD}
    renamed = {**encoder, **head, "prototypes.weight": torch.cat(list(heads.values()))}
    for name, tensor in renamed.items():
        if tensor.shape != ours[name].shape:
            raise CheckpointError(
                f"{file.name!r} holds {name!r} with shape {tuple(tensor.shape)}, its other tensors want {tuple(ours[name].shape)}"
            )
    return {name: renamed.get(name, value).to(value.dtype) for name, value in ours.items()}
