"""The front door: `train`, `load`, and `Run`, what a run can do."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, final

import pyarrow as pa

from selfcluster.clustering.projection import Projection
from selfcluster.exporters.export import Exported, export
from selfcluster.inference import clusters
from selfcluster.inference.clusters import Clusters
from selfcluster.models.features import Layer
from selfcluster.reporting import report
from selfcluster.reporting.page import Limits
from selfcluster.runs import folder
from selfcluster.runs.run import OpenRun, open_run
from selfcluster.training import train as training


@final
class Run(OpenRun):
    """A trained (or half-trained) run in its folder, and what can be done with it."""

    def cluster(
        self, images: Any = None, *, k: int | Literal["auto"] | None = None, seed: int = 0, projection: Projection = "pca"
    ) -> Clusters:
        """Every image in a cluster, see `clusters.cluster`; kept in the run's folder, for `assign` and the report."""
        folder.check_writable(self.path)
        found = clusters.cluster(self, images, k=k, seed=seed, projection=projection)
        clusters.keep(found, self.path)
        return found

    def assign(self, images: Any) -> pa.Table:
        """New images in the clusters that `cluster` has found, see `clusters.assign`."""
        return clusters.assign(self, images)

    def export(self, format: str, *, out: str | Path | None = None, layer: Layer = "features", overwrite: bool = False) -> Exported:
        """The network in a form that others read, checked against the run; see `exporters.export`."""
        return export(self, format, out=out, layer=layer, overwrite=overwrite)

    def report(
        self,
        images: Any = None,
        *,
        out: str | Path | None = None,
        k: int | Literal["auto"] | None = None,
        seed: int = 0,
        limits: Limits | None = None,
    ) -> Path:
        """One page about the run that opens from disk, see `report.report`."""
        return report.report(self, images, out=out, k=k, seed=seed, limits=limits)


def train(
    data: Any = None,
    *,
    method: str | None = None,
    out: str | Path | None = None,
    preset: str | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Run:
    """Train an encoder on unlabelled images.

    Args:
        data: a folder of images, tar or parquet files (one, a folder of them, a pattern), a .npy or .npz file, an array (N, H, W) or (N, H, W, 3) of uint8, or the name of a set.
        method: "swav", "deepcluster", "deepcluster-v2" or "sela-v2"; None for that of the preset or the TOML file, or else "swav".
        out: the run's folder; None for runs/<data>-<method>-<n>.
        preset, config: a named preset, and a TOML file of settings (whose method and images count where they are not given here).
        resume: go on with the run in `out`.
        overwrite: replace the run in `out`.
        settings: any setting by its name, such as epochs=50; batch="auto" finds the largest that fits.
    Returns:
        the trained run.
    Raises:
        ConfigError, DataError, CheckpointError: see the messages.
        CollapseError: training has died.
    """
    run = training.train(data, method=method, out=out, preset=preset, config=config, resume=resume, overwrite=overwrite, **settings)
    return Run(run.path, run.config, run.images, run.model)


def load(path: str | Path, *, device: str = "cpu") -> Run:
    """The run in this folder, with the weights of its last checkpoint.

    Raises:
        CheckpointError: it is no run, has no checkpoint yet, or is damaged.
    """
    run = open_run(path, device=device)
    return Run(run.path, run.config, run.images, run.model)
