"""environment.json: when, where and with which versions a run was started."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from selfcluster import distributed
from selfcluster.runs.json_files import read_json, write_json


@dataclass(frozen=True)
class Environment:
    """Contents of environment.json; what is not known is empty."""

    command: list[str] = field(default_factory=list)
    started: str = ""
    """Local time, ISO 8601."""
    python: str = ""
    platform: str = ""
    device: str = ""
    """Name of the GPU, or else of the processor."""
    threads: int = 0
    ranks: int = 1
    versions: dict[str, str] = field(default_factory=dict)
    imported_from: str = ""
    """Name of the file that an imported run was converted from."""


def current_environment(*, imported_from: str = "") -> Environment:
    """Return the environment of this process."""
    return Environment(
        command=[os.path.basename(sys.argv[0]), *sys.argv[1:]],
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        python=platform.python_version(),
        platform=platform.platform(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        threads=torch.get_num_threads(),
        ranks=distributed.n_ranks(),
        versions={name: version(name) for name in ("selfcluster", "torch", "torchvision", "timm", "numpy")},
        imported_from=imported_from,
    )


def write_environment(folder: Path, environment: Environment) -> None:
    """Write environment.json, without what is empty."""
    write_json(folder / "environment.json", {name: value for name, value in dataclasses.asdict(environment).items() if value})


def read_environment(folder: Path) -> Environment:
    """Return the environment of a run; an empty one if the folder has no environment.json.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = folder / "environment.json"
    content = read_json(file, advice="delete it") if file.is_file() else {}
    return Environment(**{f.name: content[f.name] for f in dataclasses.fields(Environment) if f.name in content})
