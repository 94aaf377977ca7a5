"""timm's layout: model.safetensors and config.json, for `timm.create_model('local-dir:...')`.

The network's weights are timm's own tensors under timm's own names, so nothing is converted. The networks for small images are
timm networks too, but timm knows their names only after `import selfcluster.models` has registered them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from selfcluster.exporters.verification import Difference, Source, difference, probe
from selfcluster.models.encoders import default_cfgs
from selfcluster.runs.weights import write_encoder
from selfcluster.settings.config import Config

FILES: tuple[str, ...] = ("config.json", "model.safetensors")


def check(config: Config[Any]) -> None:
    """Every encoder is a timm network."""


def write(folder: Path, source: Source) -> Difference:
    """The folder holds the encoder as timm loads it; timm has loaded it."""
    write_encoder(folder, source.network, source.config)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    return difference(loaded, source.network.encoder, probe(source, channels=2 if source.config.model.sobel else 3))


def notes(source: Source) -> tuple[str, ...]:
    """What the user of the folder has to know."""
    said = []
    if source.encoder_name in default_cfgs:
        said.append(f"timm knows {source.encoder_name} after `import selfcluster.models`; without selfcluster installed, use --format onnx")
    if source.config.model.sobel:
        said.append("the encoder takes edges in two channels: what selfcluster.models.Sobel makes of a normalized image")
    return tuple(said)


def next_step(path: Path, source: Source) -> str:
    """How to load it, ready to paste."""
    registered = "import selfcluster.models, timm" if source.encoder_name in default_cfgs else "import timm"
    return f"next, in Python: {registered}; encoder = timm.create_model({f'local-dir:{path}'!r}, pretrained=True).eval()"
