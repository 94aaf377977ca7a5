"""A folder to upload to the Hugging Face hub: timm's layout and a model card. Nothing is uploaded here.

Once uploaded, it is loaded with `timm.create_model('hf-hub:NAME/MODEL')`.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from selfcluster.exporters import timm_folder
from selfcluster.exporters.model_card import model_card
from selfcluster.exporters.verification import Difference, Source
from selfcluster.models.encoders import default_cfgs

FILES: tuple[str, ...] = (*timm_folder.FILES, "README.md")


def write(folder: Path, source: Source) -> Difference:
    """Write timm's files and the model card, and check the weights as loaded by timm."""
    found = timm_folder.write(folder, source)
    (folder / "README.md").write_text(_card(source), encoding="utf-8")
    return found


def _card(source: Source) -> str:
    imports = ["import timm"]
    if source.encoder_name in default_cfgs:
        imports.append("import selfcluster.models  # registers the encoder with timm")
    prepared = "transform(image)[None]"
    if source.config.model.sobel:
        imports = ["import timm", "import selfcluster.models"]
        prepared = f"selfcluster.models.Sobel()({prepared})"
    loading = [
        *imports,
        "",
        f"encoder = timm.create_model('hf-hub:{_repository(source)}', pretrained=True).eval()  # the name under which it was uploaded",
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder), is_training=False)",
        f"features = encoder({prepared})  # image: a PIL image in RGB",
    ]
    return model_card(source.path, source.config, n_features=source.network.n_features, loading="\n".join(loading))


def _repository(source: Source) -> str:
    name = re.sub(r"[^\w.-]+", "-", source.path.resolve().name)
    return f"YOUR-NAME/{name}"


def notes(source: Source) -> tuple[str, ...]:
    """Return what has to be done before an upload."""
    return (*timm_folder.notes(source), "README.md leaves the license to you: set `license:` at its top")


def next_step(path: Path, source: Source) -> str:
    """Return the command that uploads the folder."""
    return f"next: hf upload {_repository(source)} {shlex.quote(str(path))}"
