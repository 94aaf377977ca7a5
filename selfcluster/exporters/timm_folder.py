"""timm's layout: model.safetensors and config.json, for `timm.create_model('local-dir:...')`.

The weights are timm's tensors under timm's names, so nothing is converted. timm knows the networks for small images only after
`import selfcluster.models` has registered them.
"""

from __future__ import annotations

import json
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from selfcluster.errors import ConfigError
from selfcluster.exporters.classifier import class_names
from selfcluster.exporters.verification import Difference, Source, difference, probe
from selfcluster.inference.centroids import Centroids
from selfcluster.models.encoders import default_cfgs
from selfcluster.runs.weights import write_encoder

FILES: tuple[str, ...] = ("config.json", "model.safetensors")


def write(folder: Path, source: Source) -> Difference:
    """Write the encoder in timm's layout, load it with timm, and compare the features."""
    write_encoder(folder, source.network, source.config)
    images = probe(source, channels=2 if source.config.model.sobel else 3)
    if source.centroids is None:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
        return difference(loaded, source.network.encoder, images)
    centroids = source.centroids
    _add_classifier(folder, centroids, source.encoder_name)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    return difference(loaded, lambda images: (source.network.encoder(images) - centroids.center) @ centroids.vectors.T, images)


def _add_classifier(folder: Path, centroids: Centroids, name: str) -> None:
    """Add a last layer whose output is the product with each centroid; the largest is that of the largest cosine.

    Raises:
        ConfigError: the encoder's last layer is not one matrix.
    """
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=len(centroids.vectors))
    last = model.get_classifier()
    if not isinstance(last, nn.Linear) or last.in_features != len(centroids.center):
        raise ConfigError(f"encoder {name!r} has no single matrix as its last layer in timm; use --format onnx")
    with torch.no_grad():
        last.weight.copy_(centroids.vectors)
        last.bias.copy_(-centroids.vectors @ centroids.center)
    description = json.loads((folder / "config.json").read_text())
    names = class_names(centroids)
    description |= {"num_classes": len(centroids.vectors), "label_names": [names[cluster] for cluster in centroids.clusters.tolist()]}
    description["pretrained_cfg"]["num_classes"] = len(centroids.vectors)
    (folder / "config.json").write_text(json.dumps(description, indent=1))
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")


def notes(source: Source) -> tuple[str, ...]:
    """Return what the user of the folder has to know."""
    lines = []
    if source.centroids is not None:
        lines.append("each class is a centroid, and several make up a cluster; its name is in label_names of config.json")
    if source.encoder_name in default_cfgs:
        lines.append(
            f"timm knows {source.encoder_name} after `import selfcluster.models`; without selfcluster installed, use --format onnx"
        )
    if source.config.model.sobel:
        lines.append("the encoder takes two channels of edges: the output of selfcluster.models.Sobel for a normalized image")
    return tuple(lines)


def next_step(path: Path, source: Source) -> str:
    """Return the code that loads the encoder."""
    registered = "import selfcluster.models, timm" if source.encoder_name in default_cfgs else "import timm"
    kind = "encoder" if source.centroids is None else "classifier"
    return f"next, in Python: {registered}; {kind} = timm.create_model({f'local-dir:{path}'!r}, pretrained=True).eval()"
