"""The report of a run: one page that opens from disk, with its clusters, its map, its curves and a verdict.

    run = sc.load("runs/photos-swav-1")
    run.report()         # runs/photos-swav-1/report.html, of the clusters that are there, or of the method's own
    run.report(k=20)     # of 20 new clusters

`page` says what a page is made of, `render` makes it, and `report` gathers what it needs from a run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed
from selfcluster.data.sources import Data
from selfcluster.device import n_threads
from selfcluster.distributed import logger
from selfcluster.errors import CheckpointError
from selfcluster.inference import clusters
from selfcluster.inference.centroids import read_centroids
from selfcluster.inference.cluster_table import read_table
from selfcluster.inference.embeddings import embeddings_of
from selfcluster.reporting.page import COLUMNS, Limits, Page, TopOfPrototypes
from selfcluster.reporting.prototypes import top_of_prototypes
from selfcluster.reporting.render import build
from selfcluster.runs.atomic import check_destination, write_atomically
from selfcluster.runs.run import OpenRun


def report(
    run: OpenRun,
    data: Any = None,
    *,
    out: str | Path | None = None,
    k: int | Literal["auto"] | None = None,
    seed: int = 0,
    limits: Limits | None = None,
) -> Path:
    """One self-contained page about the run is written, whole or not at all.

    Args:
        run: from `train` or `load`.
        data: the images to show; None for the run's own.
        out: the file; None for report.html in the run's folder.
        k: new clusters to make, as for `clusters.cluster`, kept in the run's folder where the images are its own; None for those that are kept
            there, if they are of these images, and else for the method's own prototypes.
        seed: of new clusters.
        limits: how much the page holds.
    Returns:
        the file.
    Raises:
        ConfigError: the file cannot be written there, or settings that cannot be.
        DataError: the images are not there, or cannot be read.
        CheckpointError: what the run's folder holds is damaged.
    """
    file = _writable(run.path / "report.html" if out is None else Path(out))
    with distributed.alone():
        opened = run.data(data)
        found = _kept(run, opened) if k is None else None
        table, features, layer = found if found is not None else _clustered(run, opened, k, seed)
        limits = limits or Limits()
        logger.info(f"a page of {min(limits.points, len(table)):,} images: neighbors and thumbnails")
        page = Page(
            name=run.path.resolve().name,
            where=opened.where or "an array",
            config=run.config,
            metrics=run.metrics,
            environment=_json(run.path / "environment.json") or {},
            evaluation=_evaluation(run, opened),
            table=table,
            # What could be read when it was clustered, and cannot be now, must be nobody's neighbor.
            features=features.nan_to_num().numpy(),
            images=opened.images,
            # Where the clusters are the prototypes, these have been shown already.
            prototypes=None if layer == "head" else _prototypes(run, features, limits),
            threads=n_threads(run.config),
            limits=limits,
        )
        write_atomically(file, build(page))
    return file


ClusteredImages = tuple[pa.Table, Float[Tensor, "n f"], str]
"""A table of clusters, the features of its images, and the layer that the clusters were made in."""


def _kept(run: OpenRun, data: Data) -> ClusteredImages | None:
    """The clusters in the run's folder, if they are of these images."""
    file = run.path / "clusters.parquet"
    if not file.is_file():
        return None
    try:
        table = read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise CheckpointError(
            f"cannot read {str(file)!r}: {' '.join(str(error).split())}; run selfcluster cluster {run.path} again"
        ) from None
    if missing := COLUMNS - set(table.column_names):
        raise CheckpointError(f"{str(file)!r} has no column {sorted(missing)[0]!r}; run selfcluster cluster {run.path} again")
    centroids = read_centroids(run.path)
    if centroids.digest != data.images.digest() or not table["path"].combine_chunks().equals(data.images.paths().cast(table["path"].type)):
        logger.info(f"the clusters in {file} are of other images; making new ones, which the page alone has: see selfcluster cluster")
        return None
    if centroids.step != run.step:
        logger.info(f"the clusters in {file} are of step {centroids.step:,}, before training went on; making new ones")
        return None
    logger.info(f"showing the clusters in {file}")
    return table, torch.from_numpy(embeddings_of(run, data.images).features), centroids.layer


def _clustered(run: OpenRun, data: Data, k: int | Literal["auto"] | None, seed: int) -> ClusteredImages:
    """New clusters. Those of the run's own images are kept, so that the page and `assign` mean the same ones, unless clusters of other
    images are there that nobody has asked to replace."""
    found = clusters.cluster(run, data, k=k, seed=seed)
    there = run.path / "clusters.safetensors"
    replaces = k is not None or not there.is_file() or read_centroids(run.path).digest == found.centroids.digest
    if replaces and data.where and data.where == run.images:
        clusters.write_clusters(found, run.path)
    return found.table, torch.from_numpy(found.features), found.centroids.layer


def _evaluation(run: OpenRun, data: Data) -> dict[str, Any] | None:
    """What was measured last on these images; of an evaluation that does not say on which, it is taken that it was on the run's own."""
    for file in sorted(run.path.glob("evaluation*.json")):
        found = _json(file)
        if found is not None and found.get("of", {}).get("data", run.images) == (data.where or "an array"):
            return found
    own = _json(run.path / "evaluation.json")
    return own if data.where == run.images else None


def _writable(file: Path) -> Path:
    """The file, of which it is known before the work begins that it can be written."""
    check_destination(file, (".html",), overwrite=True)
    return file


def _json(file: Path) -> dict[str, Any] | None:
    """What a file of the run holds; None where it is not there."""
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}; remove it, and make it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{str(file)!r} is damaged: it holds no table of values; remove it, and make it again")
    return content


@torch.no_grad()
def _prototypes(run: OpenRun, features: Float[Tensor, "n f"], limits: Limits) -> TopOfPrototypes:
    """What the run's prototypes look like; DeepCluster's are the rows of its top layer, on the features themselves."""

    def scores(rows: Tensor) -> Tensor:
        return run.model.prototypes(run.model.head(rows.to(run.device)).float())[0].cpu()

    return top_of_prototypes(features, scores, n_prototypes=run.config.n_prototypes, most=limits.prototypes)
