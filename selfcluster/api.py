"""The Python API: `explore`, `train`, `load` and `Run`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from selfcluster.clustering.projection import Projection
from selfcluster.evaluation import evaluate as evaluation
from selfcluster.evaluation.results import Evaluation
from selfcluster.exporters import export as exporters
from selfcluster.exporters.export import ExportResult
from selfcluster.inference import clusters, embeddings, renaming
from selfcluster.inference import explore as exploration
from selfcluster.inference.cluster_table import saved_table
from selfcluster.inference.clusters import Assignment, Clusters
from selfcluster.models.model import ClusterModel
from selfcluster.reporting import report
from selfcluster.reporting.page import Limits
from selfcluster.runs.run import OpenRun, open_run
from selfcluster.settings.commands import ExportLayer, Layer, NClusters
from selfcluster.settings.config import Config
from selfcluster.training import train as training


@final
class Run:
    """A run that was trained, in full or in part, explored or imported.

    Args:
        opened: the open run folder, which the functions of the package take.
    """

    def __init__(self, opened: OpenRun) -> None:
        self.opened = opened

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, method={self.config.method!r}, encoder={self.config.model.encoder!r})"

    @property
    def path(self) -> Path:
        """Run folder."""
        return self.opened.path

    @property
    def config(self) -> Config[Any]:
        """Settings of the training."""
        return self.opened.config

    @property
    def model(self) -> ClusterModel:
        """Encoder, head and prototypes, in eval mode."""
        return self.opened.model

    @property
    def metrics(self) -> list[dict[str, float]]:
        """Rows of metrics.jsonl, oldest first."""
        return self.opened.metrics

    @property
    def table(self) -> pa.Table:
        """Table of the clusters in the run folder, as `explore`, `cluster`, `report` or `apply` saved them; see `Clusters.table`.

        Raises:
            CheckpointError: there are none yet.
        """
        return saved_table(self.path)

    def embed(self, images: Any = None, *, layer: Layer = "features") -> Float[np.ndarray, "n _"]:
        """Return the features of images, a row for each; see `embeddings.embed`."""
        return embeddings.embed(self.opened, images, layer=layer)

    def cluster(self, images: Any = None, *, k: NClusters = None, seed: int = 0, projection: Projection = "tsne") -> Clusters:
        """Cluster images, and save the clusters in the run folder; see `clusters.cluster`."""
        return clusters.cluster(self.opened, images, k=k, seed=seed, projection=projection, keep=True)

    def apply(self, names: str | Path, images: Any = None) -> Clusters:
        """Name, merge and split the saved clusters as a CSV file says; see `renaming.apply`."""
        return renaming.apply(self.opened, names, images)

    def assign(self, images: Any) -> Assignment:
        """Assign new images to the clusters that `cluster` saved; see `clusters.assign`."""
        return clusters.assign(self.opened, images)

    def evaluate(self, data: Any = None, *, test: Any = None, labels: str = "auto", only: Sequence[str] = (), **how: Any) -> Evaluation:
        """Evaluate the encoder next to raw pixels, a pretrained encoder and the untrained one; see `evaluate.evaluate` for the other arguments."""
        return evaluation.evaluate(self.opened, data, test=test, labels=labels, only=only, **how)

    def report(
        self,
        images: Any = None,
        *,
        out: str | Path | None = None,
        k: NClusters = None,
        seed: int = 0,
        limits: Limits | None = None,
    ) -> Path:
        """Write an HTML page about the run; see `report.report`."""
        return report.report(self.opened, images, out=out, k=k, seed=seed, limits=limits)

    def export(
        self, format: str, *, out: str | Path | None = None, layer: ExportLayer = "features", overwrite: bool = False
    ) -> ExportResult:
        """Export the network and check it against the run; see `export.export`."""
        return exporters.export(self.opened, format, out=out, layer=layer, overwrite=overwrite)


def train(
    data: Any = None,
    *,
    method: str | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    augmentation: str | None = None,
    resume: bool | Literal["auto"] = False,
    from_step: int | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Run:
    """Train an encoder on unlabeled images.

    Args:
        data: a folder of images, tar or parquet files (one, a folder of them, a pattern), a .npy or .npz file, an array (N, H, W) or (N, H, W, 3) of uint8, or the name of a set.
        method: "swav", "deepcluster", "deepcluster-v2" or "sela-v2"; None for that of the preset or TOML file, or else "swav".
        out: run folder; None for runs/<data>-<method>-<n>.
        preset: name of a published experiment, whose settings replace the recipe.
        config: TOML file of settings; its method and images apply unless they are given here.
        augmentation: "photo", "grey" or "glyph"; None for the one that fits the images.
        resume: resume the run in `out`; "auto" resumes it if it has a checkpoint, and begins it otherwise.
        from_step: resume from the checkpoint of this step; None for the last one.
        overwrite: replace the run in `out`.
        settings: any setting by its name, such as epochs=50; batch="auto" finds the largest batch that fits in memory.
    Returns:
        the trained run.
    Raises:
        ConfigError: an unknown or wrong setting.
        DataError: images that cannot be used.
        CheckpointError: `out` is in use, or cannot be resumed.
        CollapseError: training has collapsed or diverged.
    """
    return Run(
        training.train(
            data,
            method=method,
            out=out,
            preset=preset,
            config=config,
            augmentation=augmentation,
            resume=resume,
            from_step=from_step,
            overwrite=overwrite,
            **settings,
        )
    )


def explore(
    data: Any,
    *,
    encoder: str | None = None,
    init: str = "pretrained",
    k: NClusters = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    **how: Any,
) -> Run:
    """Cluster images by a pretrained encoder, without training; see `explore.explore` for the arguments.

    Returns:
        a run with clusters, which can be reported, assigned to, exported and trained from.
    """
    return Run(exploration.explore(data, encoder=encoder, init=init, k=k, out=out, overwrite=overwrite, **how)[0])


def load(path: str | Path, *, device: str = "cpu") -> Run:
    """Open a run folder, with the weights of its last checkpoint.

    Raises:
        CheckpointError: it is not a run folder, has no checkpoint yet, or is damaged.
    """
    return Run(open_run(path, device=device))
