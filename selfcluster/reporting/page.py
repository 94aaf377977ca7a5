"""What the page is made of: one record that holds all of it, so that the page can be made and tested without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selfcluster.data.readers.images import Images
from selfcluster.errors import ConfigError
from selfcluster.settings.config import Config

COLUMNS = frozenset(["path", "index", "cluster", "distance", "margin", "rank_in_cluster", "x", "y", "is_outlier", "duplicate_of"])
"""Of the table of clusters, which a page is made from."""


@dataclass(frozen=True)
class Limits:
    """How much a page holds. With these, 50,000 images come to less than 40 MB."""

    points: int = 50_000
    """Images on the page; of more, a sample."""
    large: int = 4_000
    """Images that have a thumbnail of `large_pixels`; the others have a small one only."""
    large_pixels: int = 96
    prototypes: int = 100
    """Prototypes that are shown, those used most."""
    neighbors: int = 8
    """Nearest neighbors of each image."""
    seed: int = 0
    """The sample follows from it."""

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ConfigError(f"points {self.points} must be at least 1: the page shows images")


@dataclass(frozen=True)
class TopImages:
    """What one prototype looks like."""

    prototype: int
    n_nearest: int
    """Images to which no other prototype of its head is nearer."""
    rows: tuple[int, ...]
    """The images nearest to it, nearest first, as rows of the table."""


@dataclass(frozen=True)
class TopOfPrototypes:
    """The prototypes of a run's first head that are used most."""

    n: int
    """Prototypes of that head."""
    n_heads: int
    n_used: int
    """Prototypes that are nearest to some image."""
    shown: tuple[TopImages, ...]


@dataclass(frozen=True)
class Page:
    """Everything that the page says.

    Args:
        name: of the run.
        where: what the run was trained on, in words.
        config: of the run.
        metrics: rows of metrics.jsonl, oldest first.
        environment: of environment.json; empty where there is none.
        evaluation: of evaluation.json; None where nothing was measured.
        table: one row an image in the order of the data, as in `clusters.Clusters`, with the `COLUMNS` below and perhaps label.
        features: (n, F) float32, in the order of the table; NaN where the image cannot be read.
        images: those of the table.
        prototypes: what the prototypes look like; None where they are the clusters.
        threads: that decode images.
    """

    name: str
    where: str
    config: Config[Any]
    metrics: Sequence[Mapping[str, float]]
    environment: Mapping[str, Any]
    evaluation: Mapping[str, Any] | None
    table: pa.Table
    features: NDArray[np.float32]
    images: Images
    prototypes: TopOfPrototypes | None = None
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
