"""Inputs of the page in one record, so that a page can be built and tested without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from selfcluster.clustering.tree import Tree
from selfcluster.data.readers.images import Images
from selfcluster.errors import ConfigError
from selfcluster.evaluation.trust import Trust
from selfcluster.reporting.prototypes import PrototypeGalleries
from selfcluster.runs.environment import Environment
from selfcluster.settings.config import Config

COLUMNS = frozenset(["path", "index", "cluster", "distance", "margin", "rank_in_cluster", "x", "y", "is_outlier", "duplicate_of"])
"""Columns that the table of clusters must have."""


@dataclass(frozen=True)
class Limits:
    """Limits on the contents of a page. With these, 50,000 images take less than 40 MB."""

    n_points: int = 50_000
    """Images on the page; more are sampled."""
    n_large: int = 4_000
    """Images with a thumbnail of `large_pixels`; the others have only a small one."""
    large_pixels: int = 96
    """Side of a large thumbnail."""
    n_prototypes: int = 100
    """Prototypes shown, the most used first."""
    n_neighbors: int = 8
    """Nearest neighbors of each image."""
    seed: int = 0
    """Random seed of the sample."""

    def __post_init__(self) -> None:
        if self.n_points < 1:
            raise ConfigError(f"points {self.n_points} must be at least 1; the page shows images")


@dataclass(frozen=True)
class Page:
    """All inputs of a page.

    Args:
        name: name of the run.
        where: location of the images; "" for an array.
        config: settings of the run.
        metrics: rows of metrics.jsonl, oldest first.
        environment: environment of the run.
        evaluation: contents of an evaluation file; None without an evaluation.
        table: one row per image in the order of the data, as in `clusters.Clusters`, with the `COLUMNS` and optionally label.
        features: (n, F) float32, in the order of the table; NaN for an unreadable image. They may be mapped from a file, and are read in
            blocks, since those of a million images need not fit into memory twice.
        images: the images of the table.
        looks: (n, T) a few pixels of each, see `duplicates.thumbnails`; None where neighbors by pixels are not shown.
        originals: address of the folder of the image files, relative to the page; "" where there is none, and the page has thumbnails only.
        folder: of the run, for commands to paste.
        trust: tests of encoder and clusters; None where there are none.
        tree: of the table's centroids; None for a page whose clusters cannot be cut anew.
        prototypes: galleries of the prototypes; None if the prototypes are the clusters.
        threads: threads that decode images.
        limits: limits on the contents.
    """

    name: str
    where: str
    config: Config[Any]
    metrics: Sequence[Mapping[str, float]]
    environment: Environment
    evaluation: Mapping[str, Any] | None
    table: pa.Table
    features: NDArray[np.float32]
    images: Images
    looks: NDArray[np.float32] | None = None
    originals: str = ""
    folder: str = "RUN"
    trust: Trust | None = None
    tree: Tree | None = None
    prototypes: PrototypeGalleries | None = None
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
