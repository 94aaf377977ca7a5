"""Exploring images without training: features of a pretrained encoder, centered, and clusters of them, as a run.

The clusters are the prototypes of the run, and its head centers features and scales them to unit norm. So the run is assigned to,
reported and exported like a trained one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed, methods
from selfcluster.clustering.density import density_centroids
from selfcluster.data.inspect import look_at
from selfcluster.data.sources import open_data
from selfcluster.device import start
from selfcluster.distributed import logger
from selfcluster.errors import ConfigError, DataError
from selfcluster.inference.clusters import Clusters, cluster, spherical_centroids
from selfcluster.inference.embeddings import embeddings_of
from selfcluster.models.model import Center, Prototypes
from selfcluster.models.pretrained import BUNDLED, frozen_pixels, normalization_of
from selfcluster.runs.checkpoint import save_network
from selfcluster.runs.folder import claim, prepare, write_config
from selfcluster.runs.run import OpenRun
from selfcluster.runs.weights import write_model
from selfcluster.settings.commands import NClusters
from selfcluster.settings.config import Config, default_config, flatten, replace
from selfcluster.settings.resolve import ResolvedConfig
from selfcluster.settings.validation import check


def explore(
    data: Any,
    *,
    encoder: str = BUNDLED,
    k: NClusters = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    labels: str = "auto",
    pixels: int = 0,
    seed: int = 0,
    device: str = "auto",
) -> tuple[OpenRun, Clusters]:
    """Cluster images by the features of a pretrained encoder, without training, and keep all of it as a run.

    Args:
        data: anything that `train` accepts.
        encoder: a timm model with pretrained weights; those of the default come with the install.
        k: number of clusters; None or "auto" to find it by density, see `density_centroids`.
        out: run folder; None for runs/<data>-explore-<n>.
        overwrite: replace the run in `out`.
        labels: as in `train`.
        pixels: side that images are resized to; 0 for 128 on a CPU and 224 on a GPU, but no more than the images have.
        seed: random seed of the clusters.
        device: auto, cpu, cuda, cuda:N or mps.
    Returns:
        the run, and the clusters of its images.
    Raises:
        ConfigError: an unknown encoder, or weights that cannot be downloaded, or k below 2.
        DataError: images that cannot be used, or fewer readable ones than clusters.
        CheckpointError: `out` is in use.
    """
    if isinstance(k, int) and k < 2:
        raise ConfigError(f"k must be at least 2, got {k}")
    config = replace(
        default_config("explore"), {"encoder": encoder, "init": "pretrained", "labels": labels, "seed": seed, "device": device}
    )
    target = start(device)
    opened = open_data(data, config.data)
    _check_enough(len(opened.images), k)
    short_side = look_at(opened.images, len(opened.images), target).short_side
    side = pixels or frozen_pixels(short_side, gpu=target.type == "cuda")
    normalization = normalization_of(encoder)
    given = {"crop_pixels": (side,), **(dict(zip(("pixel_mean", "pixel_deviation"), normalization, strict=True)) if normalization else {})}
    config = replace(config, given)
    check(config)
    model = methods.build_model(config)
    path = claim(out, opened.name, "explore", overwrite=overwrite)
    for note in opened.notes:
        logger.info(note)
    with distributed.alone():
        prepare(path, _resolved(config), opened)
        run = OpenRun(path, config, opened.where, model.to(target))
        features = torch.from_numpy(embeddings_of(run, opened.images).features)
        features = features[~features[:, 0].isnan()]
        _check_enough(len(features), k)
        mean = features.mean(dim=0)
        centroids = _centroids(features - mean, k, seed, target)
        config = replace(config, {"n_prototypes": len(centroids), "embedding_width": features.shape[1]})
        prototypes = Prototypes((len(centroids),), features.shape[1])
        with torch.no_grad():
            prototypes.weight.copy_(centroids)
        assert isinstance(model.head, Center)
        model.head.mean.copy_(mean)
        model.prototypes = prototypes.to(target)
        write_config(path, _resolved(config), opened.where)
        save_network(path, config, model)
        write_model(path, model, config)
        run = OpenRun(path, config, opened.where, model)
        return run, cluster(run, opened, seed=seed, keep=True)


def _check_enough(n: int, k: NClusters) -> None:
    fewest = k if isinstance(k, int) else 2
    if n < fewest:
        raise DataError(f"{n:,} readable images are fewer than {fewest} clusters; lower k, or give more images")


def _centroids(centered: Float[Tensor, "n f"], k: NClusters, seed: int, device: torch.device) -> Float[Tensor, "k f"]:
    """Return unit centroids: k by spherical k-means, or as many as there are dense groups."""
    if not isinstance(k, int):
        logger.info(f"looking for dense groups among {len(centered):,} images")
        found = density_centroids(centered, seed=seed)
        if len(found) > 1:
            return found
        logger.warning("no dense groups were found; clustering by k-means, see --k")
    n_clusters = k if isinstance(k, int) else max(2, round((len(centered) / 2) ** 0.5))
    return spherical_centroids(centered, n_clusters, seed=seed, device=device)


def _resolved(config: Config[Any]) -> ResolvedConfig:
    return ResolvedConfig(config, dict.fromkeys(flatten(config), "explore"))
