"""timm's layout: model.safetensors and config.json, for `timm.create_model('local-dir:...')`.

The weights are timm's tensors under timm's names, so nothing is converted. timm knows the networks for small images only after
`import selfcluster.models` has registered them.
"""

from __future__ import annotations

from pathlib import Path

import timm

from selfcluster.exporters.verification import Difference, Source, difference, probe
from selfcluster.models.encoders import default_cfgs
from selfcluster.runs.weights import write_encoder

FILES: tuple[str, ...] = ("config.json", "model.safetensors")


def write(folder: Path, source: Source) -> Difference:
    """Write the encoder in timm's layout, load it with timm, and compare the features."""
    write_encoder(folder, source.network, source.config)
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    return difference(loaded, source.network.encoder, probe(source, channels=2 if source.config.model.sobel else 3))


def notes(source: Source) -> tuple[str, ...]:
    """Return what the user of the folder has to know."""
    lines = []
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
    return f"next, in Python: {registered}; encoder = timm.create_model({f'local-dir:{path}'!r}, pretrained=True).eval()"
