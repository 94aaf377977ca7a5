"""The model card of an encoder, written from what the run recorded.

The license is left open, since the owner of the weights has to choose it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfcluster.formatting import duration
from selfcluster.models.patches import PATCHES
from selfcluster.runs.checkpoint import read_state
from selfcluster.runs.environment import read_environment
from selfcluster.runs.folder import read_config
from selfcluster.runs.manifest import has_manifest, read_manifest
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
    "interpolation",
    "area",
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
"""Settings on the card, if the method has them; all others are in the run's config.toml."""


def model_card(path: Path, config: Config[Any], *, n_features: int, loading: str) -> str:
    """Write the README.md of a repository on the Hugging Face hub.

    Args:
        path: run folder.
        config: the run's settings.
        n_features: width of the encoder's output.
        loading: Python code that loads the encoder.
    """
    name, paper = _PAPERS.get(config.method, (config.method, ""))
    origin, inherited = f"It was trained by {name}.", ""
    if source := read_environment(path).imported_from:
        origin = f"It was imported from `{source}`, a checkpoint in the layout of the original code."
        inherited = f" The weights are those of {source}, whose license applies."
    elif config.model.encoder == PATCHES:
        origin = "It was not trained: small patches of the images below were clustered."
    elif config.method == "explore":
        weights = "timm's pretrained weights" if config.model.init == "pretrained" else f"the weights of {_value(config.model.init)}"
        origin = f"It was not trained: these are {weights} for `{config.model.encoder}`, whose license applies."
    elif config.model.init != "random":
        inherited = f" Training started from the weights of {_value(config.model.init)}, whose license applies too."
    values = flatten(config)
    # Zero and False stand for settings that are not used.
    settings = "\n".join(["| setting | |", "|---|---|", *(f"| {key} | {_value(values[key])} |" for key in _SHOWN if values.get(key))])
    return "\n\n".join(
        [
            _front_matter(config.method),
            f"# {path.resolve().name}",
            f"An image encoder (`{config.model.encoder}`, {n_features} features) that was trained without labels, by clustering. {origin}",
            f"Method: {name}{f', [arXiv {paper}](https://arxiv.org/abs/{paper})' if paper else ''}, as implemented in selfcluster.",
            f"## Training images\n\n{_images(path, config)}",
            f"## Training\n\n{_training(path, config)}\n\n{settings}",
            f"## Evaluation\n\n{_evaluation(path)}",
            f"## How to use it\n\n```python\n{loading}\n```",
            f"## Limitations\n\n{_limitations(config)}",
            f"## License\n\nTo be chosen by the publisher of these weights, subject to the rights in the images.{inherited}\n",
        ]
    )


def _front_matter(method: str) -> str:
    tags = ["image-feature-extraction", "timm", "selfcluster", method, "self-supervised-learning", "clustering"]
    return "\n".join(
        [
            "---",
            "# license: choose one before you upload, as in `license: apache-2.0`; see the end of this page",
            "library_name: timm",
            "pipeline_tag: image-feature-extraction",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        ]
    )


def _images(path: Path, config: Config[Any]) -> str:
    if not has_manifest(path):
        return "The training images are not recorded here."
    n, where = len(read_manifest(path).trained_on), read_config(path)[1]
    # The name alone, since the full path is private.
    named = f"from `{Path(where).name}`" if where else "from an array"
    held_out = f"; a share of {config.data.test_share:g} was held out" if config.data.test_share else ""
    return f"{n:,} images {named}{held_out}. No labels were used."


def _training(path: Path, config: Config[Any]) -> str:
    state, environment = read_state(path), read_environment(path)
    versions = ", ".join(f"{name} {number}" for name, number in environment.versions.items())
    if not state.step:
        return f"The length of training is not recorded here. Written with {versions}."
    ranks = f" in {environment.ranks} processes" if environment.ranks > 1 else ""
    n = len(read_manifest(path).trained_on) if has_manifest(path) else 0
    passes = f" ({state.step * config.optim.batch / n:.3g} passes over the images)" if n else ""
    return f"{state.step:,} steps{passes} in {duration(state.seconds)} on {environment.device}{ranks}, with {versions}."


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join("-".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
    if isinstance(value, str) and Path(value).is_absolute():
        return f"`{Path(value).name}`"
    return f"{value:g}" if isinstance(value, float) else str(value)


def evaluations(path: Path) -> dict[str, dict[str, Any]]:
    """Return the results of `selfcluster evaluate` in the run folder, by file name: figures and notes, without the path of the images."""
    found = {}
    for file in sorted(path.glob("evaluation*.json")):
        content, where = json.loads(file.read_text()), read_config(path)[1]
        notes = [note.replace(where, Path(where).name) if where else note for note in content["notes"]]
        found[file.name] = {"figures": content["figures"], "notes": notes}
    return found


def _evaluation(path: Path) -> str:
    parts = []
    for name, evaluation in evaluations(path).items():
        figures, other = evaluation["figures"], name.removeprefix("evaluation").removesuffix(".json").strip("-")
        metrics = dict.fromkeys(metric for values in figures.values() for metric in values)
        rows = [[metric, *(f"{values[metric]:.3f}" if metric in values else "" for values in figures.values())] for metric in metrics]
        lines = [["", *figures], ["---"] * (1 + len(figures)), *rows]
        parts += [f"On `{other}`:"] if other else []
        parts += ["\n".join(f"| {' | '.join(cells)} |" for cells in lines), "\n".join(f"- {note}" for note in evaluation["notes"])]
    return "\n\n".join(parts) or "Not evaluated."


def _limitations(config: Config[Any]) -> str:
    side = config.crops.crop_pixels[0]
    lines = [
        "It outputs features, not classes, and their clusters may not match your classes.",
        "It was trained on the images above only. On other kinds of images, compare it with an untrained or another encoder before relying on it.",
        f"It was trained on images of {side} x {side} pixels; `config.json` describes how to prepare them.",
    ]
    if config.model.sobel:
        lines.append("It takes two channels of edges (`selfcluster.models.Sobel` of the normalized image), not colors.")
    return "\n".join(f"- {line}" for line in lines)
