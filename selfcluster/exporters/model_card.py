"""The model card: what a stranger should know of an encoder before using it, written from what the run recorded.

Nothing is claimed that the run does not hold. The license is left open, since it is for the owner of the weights to choose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfcluster.formatting import duration
from selfcluster.runs.checkpoint import read_state
from selfcluster.runs.folder import has_data, read_config, read_trained_on
from selfcluster.settings.config import Config, flatten

_PAPERS = {
    "swav": ("SwAV", "2006.09882"),
    "deepcluster": ("DeepCluster", "1807.05520"),
    "deepcluster-v2": ("DeepCluster-v2", "2006.09882"),
    "sela-v2": ("SeLa-v2", "2006.09882"),
}

_SHOWN = (
    "encoder",
    "init",
    "n_prototypes",
    "n_crops",
    "crop_pixels",
    "area",
    "augmentation",
    "max_steps",
    "batch",
    "optimizer",
    "lr",
    "final_lr",
    "weight_decay",
    "temperature",
    "epsilon",
    "sobel",
)
"""Settings that the card shows, where the method has them; the others are in the run's config.toml."""


def model_card(path: Path, config: Config[Any], *, n_features: int, loading: str) -> str:
    """README.md for the Hugging Face hub.

    Args:
        path: the run's folder.
        config: its settings.
        n_features: width of the encoder's output.
        loading: Python that loads the encoder.
    """
    name, paper = _PAPERS.get(config.method, (config.method, ""))
    source = _imported_from(path)
    origin = f"It was imported from `{source}`, a checkpoint in the layout of the originals." if source else f"It was trained by {name}."
    return "\n\n".join(
        [
            _front_matter(config.method),
            f"# {path.resolve().name}",
            f"An image encoder (`{config.model.encoder}`, {n_features} features) that learned without labels, by clustering. {origin}",
            f"Method: {name}{f', [arXiv {paper}](https://arxiv.org/abs/{paper})' if paper else ''}, as implemented in selfcluster.",
            f"## Training images\n\n{_images(path, config)}",
            f"## Training\n\n{_training(path, config)}\n\n{_settings(config)}",
            f"## Evaluation\n\n{_evaluation(path)}",
            f"## How to use it\n\n```python\n{loading}\n```",
            f"## Limits\n\n{_limits(config)}",
            f"## License\n\n{_license(config, source)}\n",
        ]
    )


def _front_matter(method: str) -> str:
    tags = ["image-feature-extraction", "timm", "selfcluster", method, "self-supervised-learning", "clustering"]
    return "\n".join(
        [
            "---",
            "# license: yours to choose before you upload, as in `license: apache-2.0`; see the end of this page",
            "library_name: timm",
            "pipeline_tag: image-feature-extraction",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]
    )


def _imported_from(path: Path) -> str | None:
    """The file that the run was imported from, which config.toml keeps as the origin of its values."""
    found = re.search(r"(?m)# imported from (.+)$", (path / "config.toml").read_text("utf-8"))
    return found[1] if found else None


def _images(path: Path, config: Config[Any]) -> str:
    if not has_data(path):
        return "Which images it saw is not recorded here."
    n, where = len(read_trained_on(path)), read_config(path)[1]
    # Only the name: where the images lie on somebody's disk is nobody else's business.
    named = f"from `{Path(where).name}`" if where else "from an array"
    held_out = f"; a share of {config.data.test_share:g} was kept out" if config.data.test_share else ""
    return f"{n:,} images {named}{held_out}. No label was used."


def _training(path: Path, config: Config[Any]) -> str:
    _, state = read_state(path / "checkpoints")
    environment = json.loads((path / "environment.json").read_text())
    versions = ", ".join(f"{name} {number}" for name, number in environment["versions"].items())
    if not state["step"]:
        return f"How long it was trained is not recorded here. Written with {versions}."
    ranks = f" in {environment['ranks']} processes" if environment["ranks"] > 1 else ""
    n = len(read_trained_on(path)) if has_data(path) else 0
    passes = f" ({state['step'] * config.optim.batch / n:.3g} passes over the images)" if n else ""
    return f"{state['step']:,} steps{passes} in {duration(state['seconds'])} on {environment['device']}{ranks}, with {versions}."


def _settings(config: Config[Any]) -> str:
    values = flatten(config)
    # Zero and False are the steps that nobody set and the filter that is off.
    rows = [f"| {name} | {_value(values[name])} |" for name in _SHOWN if values.get(name)]
    return "\n".join(["| setting | |", "|---|---|", *rows])


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join("-".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
    if isinstance(value, str) and Path(value).is_absolute():
        return f"`{Path(value).name}`"
    return f"{value:g}" if isinstance(value, float) else str(value)


def evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """What `selfcluster evaluate` has kept in the run folder, by file name: figures and notes, without the place of the images."""
    kept = {}
    for file in sorted(path.glob("evaluation*.json")):
        content, where = json.loads(file.read_text()), read_config(path)[1]
        notes = [note.replace(where, Path(where).name) if where else note for note in content["notes"]]
        kept[file.name] = {"figures": content["figures"], "notes": notes}
    return kept


def _evaluation(path: Path) -> str:
    parts = []
    for name, kept in evaluations(path).items():
        other = name.removeprefix("evaluation").removesuffix(".json").strip("-")
        parts += [f"On `{other}`:"] if other else []
        parts += [_table(kept["figures"]), "\n".join(f"- {note}" for note in kept["notes"])]
    return "\n\n".join(parts) or "None was recorded."


def _table(figures: Mapping[str, Mapping[str, float]]) -> str:
    metrics = list(dict.fromkeys(metric for values in figures.values() for metric in values))
    rows = [[metric, *(f"{values[metric]:.3f}" if metric in values else "" for values in figures.values())] for metric in metrics]
    lines = [["", *figures], ["---"] * (1 + len(figures)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _limits(config: Config[Any]) -> str:
    side = config.crops.crop_pixels[0]
    said = [
        "It gives features, not classes; clusters of them need not be the classes that you have in mind.",
        "It was trained on the images above only. On images of another kind, compare it with an untrained or another encoder before relying on it.",
        f"It saw images of {side} x {side} pixels; `config.json` tells how to prepare them.",
    ]
    if config.model.sobel:
        said.append("It takes edges in two channels (`selfcluster.models.Sobel` of the normalized image), not colors.")
    return "\n".join(f"- {line}" for line in said)


def _license(config: Config[Any], imported_from: str | None) -> str:
    start = imported_from or ("" if config.model.init == "random" else _value(config.model.init))
    began = f" The weights began as those of {start}, so the license of these binds too." if start else ""
    return f"To be chosen by whoever publishes these weights, with regard to the rights in the images.{began}"
