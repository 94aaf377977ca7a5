"""What each command can be told, as frozen dataclasses. No torch here, so that `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

import tyro

from selfcluster.config import Config

MethodSettings = TypeVar("MethodSettings")


@dataclass(frozen=True)
class Train(Generic[MethodSettings]):
    """Train an encoder on unlabelled images. Settings that are left out follow from the images; --dry-run prints them."""

    settings: Annotated[Config[MethodSettings], tyro.conf.arg(name="")]
    data: tyro.conf.Positional[str] = ""
    """A folder of images (nested or flat), a .npy or .npz file, or a set: digits, cifar10, cifar100, stl10, fashion-mnist, imagenette."""
    method: str = ""
    """The algorithm: swav, deepcluster, deepcluster-v2 or sela-v2; by default that of the preset or the config file, or else swav."""
    preset: str = ""
    """A named experiment instead of the recipe."""
    config: str = ""
    """A TOML file of settings, such as the config.toml of another run."""
    out: str = ""
    """Folder of the run; by default runs/<data>-<method>-<n>."""
    resume: bool = False
    """Go on with the run in --out, from its last checkpoint."""
    overwrite: bool = False
    """Replace the run in --out."""
    dry_run: bool = False
    """Print the settings, with an estimate of time and memory, and stop."""


@dataclass(frozen=True)
class Evaluate:
    """Measure a run against labels: nearest neighbours and clusters, beside raw pixels and the untrained encoder."""

    run: tyro.conf.Positional[str]
    """Folder of the run."""
    data: tyro.conf.Positional[str] = ""
    """Labelled images; by default the run's own."""
    test: str = ""
    """Other labelled images to test on; by default the data's own test split."""
    test_share: float = 0.2
    """Share of the images to test on, where there is no test split."""
    labels: str = "auto"
    """auto, none, a CSV file (path, label), or a .npy file."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


@dataclass(frozen=True)
class Demo:
    """The main job on data that comes with the install: SwAV on scikit-learn's handwritten digits."""

    out: str = ""
    """Folder of the run; by default runs/digits-swav-<n>."""
    seed: int = 0
    """Another number is another run."""
