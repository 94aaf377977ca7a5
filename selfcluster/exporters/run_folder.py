"""The whole network, encoder, head and prototypes, as a run folder that `selfcluster.load` opens.

It contains no training state: one safetensors file (`checkpoints/<step>/model.safetensors`), the JSON with its hash, and the settings.
What describes the user's machine is left out: the location of the images, their paths, and the command.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from selfcluster.errors import CheckpointError
from selfcluster.exporters.model_card import evaluations
from selfcluster.exporters.verification import Difference, Source, difference, probe
from selfcluster.models.model import ClusterModel
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.checkpoint import read_state, save_network
from selfcluster.runs.environment import read_environment, write_environment
from selfcluster.runs.folder import read_model, write_config
from selfcluster.runs.json_files import write_json
from selfcluster.settings.config import flatten
from selfcluster.settings.resolve import ResolvedConfig

FILES: tuple[str, ...] = ("config.toml", "environment.json", "metrics.jsonl", "evaluation*.json", "checkpoints")


def write(folder: Path, source: Source) -> Difference:
    """Write a run that can be loaded, evaluated on given images, exported and trained from, but not resumed; load it and compare all weights.

    Raises:
        CheckpointError: a weight or an output differs from the run's.
    """
    origins = dict.fromkeys(flatten(source.config), f"exported from {source.path.resolve().name}")
    write_config(folder, ResolvedConfig(source.config, origins), images="")
    write_environment(folder, dataclasses.replace(read_environment(source.path), command=[]))
    if (source.path / "metrics.jsonl").is_file():
        write_atomically(folder / "metrics.jsonl", (source.path / "metrics.jsonl").read_bytes())
    for name, kept in evaluations(source.path).items():
        write_json(folder / name, kept)
    state = read_state(source.path)
    save_network(folder, source.config, source.network, step=state.step, epoch=state.epoch, seconds=state.seconds)
    loaded = read_model(folder)[2].eval()
    found = difference(_scores_of(loaded), _scores_of(source.network), probe(source))
    written, wanted = loaded.state_dict(), source.network.state_dict()
    for name in sorted(written.keys() | wanted.keys()):
        if name not in written or name not in wanted or not torch.equal(written[name], wanted[name]):
            raise CheckpointError(f"the export does not reproduce the run: its tensor {name!r} differs; nothing was written")
    return found


def _scores_of(network: ClusterModel) -> Callable[[Tensor], Tensor]:
    """Return a function from images to the scores of all heads."""
    return lambda images: torch.cat(list(network.prototypes(network.project(images))), dim=1)


def notes(source: Source) -> tuple[str, ...]:
    """Return what the user of the folder has to know."""
    return ("a run without images and training state: it can be loaded and trained from (--init), but not resumed",)


def next_step(path: Path, source: Source) -> str:
    """Return the code that loads the run."""
    return f"next, in Python: import selfcluster; run = selfcluster.load({str(path)!r})"
