"""The report of a run: its inputs are gathered, and the page is written.

run = sc.load("runs/photos-swav-1")
run.report()         # runs/photos-swav-1/report.html, with the saved clusters, or the method's own
run.report(k=20)     # with 20 new clusters
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed
from selfcluster.data.dataset import Data
from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import Images
from selfcluster.device import n_threads
from selfcluster.distributed import logger
from selfcluster.errors import CheckpointError
from selfcluster.evaluation import trust
from selfcluster.evaluation.trust import Trust
from selfcluster.formatting import command, n_images
from selfcluster.inference import clusters
from selfcluster.inference.centroids import Centroids, read_centroids
from selfcluster.inference.cluster_table import TABLE, saved_table
from selfcluster.inference.embeddings import embeddings_of
from selfcluster.models.features import in_mode
from selfcluster.reporting.page import COLUMNS, Limits, Page
from selfcluster.reporting.prototypes import prototype_galleries
from selfcluster.reporting.render import build
from selfcluster.runs.atomic import check_destination, write_atomically
from selfcluster.runs.environment import read_environment
from selfcluster.runs.folder import check_writable
from selfcluster.runs.json_files import read_json
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import NClusters


@dataclass(frozen=True)
class _ClusteredImages:
    """Images with their clusters."""

    table: pa.Table
    """As in `clusters.Clusters`."""
    features: Float[Tensor, "n f"]
    """Mapped from the run's cache where they are kept: a copy of them may not fit into memory."""
    thumbnails: Float[Tensor, "n t"]
    centroids: Centroids


def report(
    run: OpenRun,
    data: Any = None,
    *,
    out: str | Path | None = None,
    k: NClusters = None,
    seed: int = 0,
    limits: Limits | None = None,
) -> Path:
    """Write a self-contained page about the run, completely or not at all.

    Args:
        run: from `train` or `load`.
        data: images to show; None for the run's own.
        out: the file; None for report.html in the run folder.
        k: number of new clusters, as for `clusters.cluster`, which are saved in the run folder if the images are the run's own; None for
            the saved clusters if they are of these images, or else as there.
        seed: random seed of new clusters.
        limits: limits on the contents.
    Returns:
        the file.
    Raises:
        ConfigError: the file cannot be written there, or k is below 1.
        DataError: the images are missing or unreadable.
        CheckpointError: a file of the run is damaged.
    """
    file = run.path / "report.html" if out is None else Path(out)
    check_destination(file, (".html",), overwrite=True)  # before the work
    if k is not None:
        check_writable(run.path)
    with distributed.alone():
        opened = run.data(data)
        clustered = (_saved_clusters(run, opened) if k is None else None) or _new_clusters(run, opened, k, seed)
        limits = limits or Limits()
        logger.info(f"building a page of {n_images(min(limits.n_points, len(clustered.table)))}: neighbors and thumbnails")

        def scores(rows: Tensor) -> Tensor:
            return run.model.prototypes(run.model.head(rows.to(run.device)).float())[0].cpu()

        prototypes = None  # the clusters are the prototypes, or made of them
        if clustered.centroids.layer != "head" and run.config.method != "explore":
            readable = torch.from_numpy(np.flatnonzero(clustered.table["cluster"].to_numpy() >= 0))
            prototypes = prototype_galleries(
                clustered.features, readable, scores, n_prototypes=run.config.n_prototypes, n_shown=limits.n_prototypes
            )
        page = Page(
            name=run.path.resolve().name,
            where=opened.where or "",
            config=run.config,
            metrics=run.metrics,
            environment=read_environment(run.path),
            evaluation=_evaluation(run, opened),
            table=clustered.table,
            features=clustered.features.numpy(),
            images=opened.images,
            looks=clustered.thumbnails.numpy(),
            originals=_address(opened.images, file.parent),
            folder=str(run.path),
            trust=_trust(run, opened, clustered),
            tree=clustered.centroids.tree,
            prototypes=prototypes,
            threads=n_threads(run.config),
            limits=limits,
        )
        write_atomically(file, build(page))
    return file


def _saved_clusters(run: OpenRun, data: Data) -> _ClusteredImages | None:
    """Return the clusters in the run folder if they are of these images and of the current weights."""
    file = run.path / TABLE
    if not file.is_file():
        return None
    table = saved_table(run.path)
    if missing := COLUMNS - set(table.column_names):
        raise CheckpointError(f"{str(file)!r} has no column {min(missing)!r}; run {command('cluster', run.path)} again")
    centroids = read_centroids(run.path)
    if centroids.digest != data.images.digest() or not table["path"].combine_chunks().equals(data.images.paths().cast(table["path"].type)):
        logger.info(f"the clusters in {file} are of other images; making new ones for the page")
        return None
    if centroids.step != run.step:
        logger.info(f"the clusters in {file} are of step {centroids.step:,}, but the run is at step {run.step:,}; making new ones")
        return None
    logger.info(f"showing the clusters in {file}")
    found = embeddings_of(run, data.images)
    return _ClusteredImages(table, torch.from_numpy(found.features), torch.from_numpy(found.thumbnails), centroids)


def _new_clusters(run: OpenRun, data: Data, k: NClusters, seed: int) -> _ClusteredImages:
    """Cluster the images, and save clusters of the run's own, so that the page and `assign` use the same ones."""
    found = clusters.cluster(run, data, k=k, seed=seed, keep=True)
    return _ClusteredImages(found.table, torch.from_numpy(found.features), torch.from_numpy(found.thumbnails), found.centroids)


def _trust(run: OpenRun, data: Data, clustered: _ClusteredImages) -> Trust | None:
    """Test the encoder and the clusters; see `trust`."""
    clusters_of_images = torch.from_numpy(clustered.table["cluster"].to_numpy().astype(np.int64))
    index = np.flatnonzero((clusters_of_images >= 0).numpy() & ~clustered.features[:, 0].isnan().numpy())
    config = run.config

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        return run.model.encode(pixels.to(run.device)).float().cpu()

    with in_mode(run.model, training=False):
        return trust.measure(
            encode,
            data.images,
            index,
            clustered.features,
            clustered.thumbnails,
            clusters_of_images,
            pixels=config.crops.crop_pixels[0],
            interpolation=config.model.interpolation,
            mirror=config.augment.flip > 0,
            seed=config.run.seed,
            threads=n_threads(config),
        )


def _address(images: Images, folder: Path) -> str:
    """Return the address of a folder of image files relative to another folder; "" for images that are no files of one folder."""
    if not isinstance(images, FolderImages):
        return ""
    try:
        return quote(os.path.relpath(images.root.resolve(), folder.resolve()).replace(os.sep, "/")) + "/"
    except (ValueError, UnicodeEncodeError):  # another drive, or a name that is not text
        return ""


def _evaluation(run: OpenRun, data: Data) -> dict[str, Any] | None:
    """Return the contents of the evaluation file of these images; a file that does not name its images is of the run's own."""
    images = data.where or data.images.digest()
    for file in sorted(run.path.glob("evaluation*.json")):
        content = read_json(file, advice="delete it and evaluate again")
        of_images = content.get("of", {}).get("data")
        if of_images == images or (of_images is None and run.is_own(data.images)):
            return content
    return None
