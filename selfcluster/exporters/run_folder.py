"""The whole method: encoder, head and prototypes, as a folder that `selfcluster.load` opens.

It is a run without what only going on with the training needs: one safetensors file (`checkpoints/<step>/model.safetensors`), the
JSON that vouches for it, and the settings from which the network is built. What tells about the user's machine stays behind: where
the images were, their paths, and the command.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfcluster.exporters.model_card import evaluations
from selfcluster.exporters.verification import Difference, Source, difference, probe
from selfcluster.models.model import ClusterModel
from selfcluster.runs import checkpoint
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.checkpoint import read_state
from selfcluster.runs.folder import read_model
from selfcluster.settings.config import Config

FILES: tuple[str, ...] = ("config.toml", "environment.json", "metrics.jsonl", "evaluation*.json", "checkpoints")


def check(config: Config[Any]) -> None:
    """Every network can be kept whole."""


def write(folder: Path, source: Source) -> Difference:
    """The folder is a run that can be loaded, evaluated on given images, exported and trained from, but not resumed."""
    settings = (source.path / "config.toml").read_text("utf-8")
    write_atomically(folder / "config.toml", re.sub(r"(?m)^images = .*$", 'images = ""', settings, count=1).encode())
    environment = json.loads((source.path / "environment.json").read_text())
    environment.pop("command", None)
    write_atomically(folder / "environment.json", json.dumps(environment, indent=1).encode())
    if (source.path / "metrics.jsonl").is_file():
        write_atomically(folder / "metrics.jsonl", (source.path / "metrics.jsonl").read_bytes())
    for name, kept in evaluations(source.path).items():
        write_atomically(folder / name, json.dumps(kept, indent=1).encode())
    _, state = read_state(source.path / "checkpoints")
    trained = {"step": state["step"], "epoch": state["epoch"], "seconds": state["seconds"]}
    checkpoint.save_network(folder, source.config, source.network, **trained)
    loaded = read_model(folder)[2].eval()
    difference(lambda _: _weights(loaded), lambda _: _weights(source.network), torch.empty(0))
    return difference(loaded.project, source.network.project, probe(source))


def _weights(network: ClusterModel) -> Tensor:
    return torch.cat([tensor.float().flatten() for tensor in network.state_dict().values()])


def notes(source: Source) -> tuple[str, ...]:
    """What the user of the folder has to know."""
    return ("a run without its images and without the state of its training: it is loaded and trained from (--init), not resumed",)


def next_step(path: Path, source: Source) -> str:
    """How to load it, ready to paste."""
    return f"next, in Python: import selfcluster; run = selfcluster.load({str(path)!r})"
