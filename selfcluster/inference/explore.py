"""Exploring images without training: features of a pretrained encoder, centered, and clusters of them, as a run.

The clusters are the prototypes of the run, and its head centers features and scales them to unit norm. So the run is assigned to,
reported and exported like a trained one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster import distributed, methods
from selfcluster.data.crops import normalize, resize_center
from selfcluster.data.inspect import look_at
from selfcluster.data.readers.images import Images, sample_of, why_unreadable
from selfcluster.data.sources import open_data
from selfcluster.device import n_threads, precision_of, start
from selfcluster.distributed import logger
from selfcluster.errors import ConfigError, DataError
from selfcluster.formatting import duration
from selfcluster.hub import downloaded
from selfcluster.inference.clusters import Clusters, clusters_of, find_in_features, readable_features, unit_rows, write_clusters
from selfcluster.inference.embeddings import embeddings_of
from selfcluster.models.encoders import WEIGHTS_TO_EXPLORE, create_encoder, suitable_side, why_refused
from selfcluster.models.heads import Center, Prototypes
from selfcluster.models.model import ClusterModel
from selfcluster.models.patches import PATCHES, PREPARATION, SAMPLE, PatchEncoder, default_codes, fit_patches, patches_pixels
from selfcluster.models.pretrained import Preparation, frozen_pixels
from selfcluster.runs.checkpoint import save_network
from selfcluster.runs.folder import check_free, claim, prepare, write_config, write_skipped
from selfcluster.runs.initial_weights import network_of, preparation_for
from selfcluster.runs.lock import locked_run
from selfcluster.runs.run import OpenRun
from selfcluster.runs.weights import load_initial_weights, write_model
from selfcluster.settings.commands import NClusters
from selfcluster.settings.config import Config, default_config, flatten, replace
from selfcluster.settings.resolve import ResolvedConfig
from selfcluster.settings.validation import check


def explore(
    data: Any,
    *,
    encoder: str | None = None,
    init: str = "pretrained",
    k: NClusters = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    labels: str = "auto",
    pixels: int = 0,
    n_codes: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> tuple[OpenRun, Clusters]:
    """Cluster images by the features of a pretrained encoder, without training, and keep all of it as a run.

    Args:
        data: anything that `train` accepts.
        encoder: a timm model, or a folder with weights and their description: timm's (config.json, model.safetensors), or a run; or the
            name of such a folder on the hub, hf-hub:OWNER/NAME. None for that of `init`, or else the one whose weights come with the
            install. "patches" needs no weights; see `models.patches`.
        init: weights of the encoder: "pretrained" for timm's, or a file, a folder or a timm name with a tag.
        k: number of clusters; None or "auto" for as many as stand out, see `find_clusters`.
        out: run folder; None for runs/<data>-explore-<n>.
        overwrite: replace the run in `out`.
        labels: as in `train`.
        pixels: side that images are resized to; 0 for 128 on a CPU and 224 on a GPU, or the nearest side that the encoder takes; for
            patches, at most 64, and 32 for images smaller than 28.
        n_codes: entries of the dictionary of patches; more are better and slower. None for half as many as images, but at most 2048.
        seed: random seed of the clusters, and of patches.
        device: auto, cpu, cuda, cuda:N or mps.
    Returns:
        the run, and the clusters of its images.
    Raises:
        ConfigError: an unknown encoder, weights that cannot be downloaded or whose features are not finite, a side that the encoder does not
            take, or k below 2.
        DataError: images that cannot be used, fewer readable ones than clusters, or fewer patches than `n_codes`.
        CheckpointError: `out` is in use, or weights that cannot be read, or belong to another encoder.
    """
    if isinstance(k, int) and k < 2:
        raise ConfigError(f"k must be at least 2, got {k}")
    encoder, init = None if encoder is None else downloaded(encoder), downloaded(init)
    config = replace(default_config("explore"), {"labels": labels, "seed": seed, "device": device})
    target = start(device)
    opened = open_data(data, config.data)
    _check_enough(len(opened.images), k)
    if encoder == PATCHES:
        config, model = _patches(config, init, pixels, n_codes, opened.images, target)
    else:
        config, model = _network(config, encoder, init, pixels, opened.images, target)
    path = claim(out, opened.name, "explore", overwrite=overwrite)
    for note in opened.notes:
        logger.info(note)
    with distributed.alone(), locked_run(path):
        check_free(path, overwrite=overwrite)  # another run may have begun there, and ended, meanwhile
        prepare(path, _resolved(config), opened)
        if encoder == PATCHES:
            assert isinstance(model.encoder, PatchEncoder)
            _fit_patches(model.encoder, config, opened.images, target)
        embeddings = embeddings_of(OpenRun(path, config, opened.where, model), opened.images)
        readable, features = readable_features(embeddings)
        if broken := why_unreadable(opened.images, np.setdiff1d(np.arange(len(opened.images)), readable)):
            write_skipped(path, broken, opened)
            logger.warning(f"{len(broken):,} images could not be read; see {path / 'skipped.csv'}")
        _check_enough(len(features), k)
        center = features.mean(dim=0)
        found = find_in_features(unit_rows(features, center), k, seed)
        config = replace(config, {"n_prototypes": len(found.vectors), "embedding_width": features.shape[1]})
        _keep_centroids(model, center, found.vectors)
        write_config(path, _resolved(config), opened.where)
        save_network(path, config, model)
        write_model(path, model, config)
        run = OpenRun(path, config, opened.where, model)
        clusters = clusters_of(run, opened, embeddings, found, seed=seed)
        write_clusters(clusters, path)
        return run, clusters


@torch.no_grad()
def _keep_centroids(model: ClusterModel, center: Float[Tensor, " f"], vectors: Float[Tensor, "l f"]) -> None:
    """Make the centroids the prototypes of the network, and the centering its head."""
    assert isinstance(model.head, Center)
    model.head.mean.copy_(center)
    prototypes = Prototypes((len(vectors),), vectors.shape[1])
    prototypes.weight.copy_(vectors)
    model.prototypes = prototypes.to(model.head.mean.device)


def _network(
    config: Config[Any], encoder: str | None, init: str, pixels: int, images: Images, device: torch.device
) -> tuple[Config[Any], ClusterModel]:
    """Return the network that `encoder` and `init` name, with its weights, and the config with its settings."""
    config = replace(config, _settings_of(encoder, init))
    m, channels = config.model, 2 if config.model.sobel else 3
    # Before images are read, so that errors come early.
    network = create_encoder(
        m.encoder, channels=channels, arguments=m.encoder_arguments, pretrained=m.init == "pretrained", instead=WEIGHTS_TO_EXPLORE
    )
    load_initial_weights(network, m.init, instead=WEIGHTS_TO_EXPLORE)
    preparation = preparation_for(m.encoder, m.init) or Preparation.from_timm({})
    wanted = pixels or frozen_pixels(gpu=device.type == "cuda")
    side = suitable_side(network, wanted, of_weights=preparation.pixels, channels=channels)
    if pixels and (reason := why_refused(network, pixels, channels=channels)):
        raise ConfigError(f"encoder {m.encoder!r} does not take images of {pixels} px ({reason}); use --pixels {side}, or leave it out")
    config = replace(config, {"crop_pixels": (pixels or side,), **preparation.settings()})
    check(config)
    model = methods.build_model(config, network).to(device).eval()
    _check_finite(model, config, images, device)
    return config, model


def _patches(
    config: Config[Any], init: str, pixels: int, n_codes: int | None, images: Images, device: torch.device
) -> tuple[Config[Any], ClusterModel]:
    """Return a network of patches, not fitted yet, and the config with its settings."""
    if init != "pretrained":
        raise ConfigError(f"patches are fitted to the images, and take no weights; leave out --init {init}, or choose another --encoder")
    side = pixels or patches_pixels(look_at(images, len(images), device).short_side)
    n_codes = n_codes if n_codes is not None else default_codes(len(images))
    with torch.device("meta"):  # a dictionary that is too large needs no memory yet
        PatchEncoder(side, n_codes).check_images(len(images))
    network = PatchEncoder(side, n_codes)
    arguments = json.dumps({"side": side, "n_codes": network.n_codes})
    chosen = {"encoder": PATCHES, "init": "random", "encoder_arguments": arguments, "crop_pixels": (side,), **PREPARATION.settings()}
    config = replace(config, chosen)
    check(config)
    return config, methods.build_model(config, network).to(device).eval()


def _fit_patches(encoder: PatchEncoder, config: Config[Any], images: Images, device: torch.device) -> None:
    began, threads = time.monotonic(), n_threads(config)
    logger.info(f"fitting patches to {min(len(images), SAMPLE):,} of {len(images):,} images")
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision_of(config, device) == torch.bfloat16):
        fit_patches(encoder, images, seed=config.run.seed, threads=threads)
    logger.info(f"fitted in {duration(time.monotonic() - began)}")


def _settings_of(encoder: str | None, init: str) -> dict[str, Any]:
    """Return the settings of the network that the arguments of `explore` name, and of its weights."""
    is_path = encoder is not None and Path(encoder).expanduser().exists() and not timm.is_model(encoder)
    if is_path and init != "pretrained":
        raise ConfigError(f"--encoder {encoder!r} names its weights already; leave --init out")
    if init == "random":
        raise ConfigError("explore does not train, so random weights are of no use; leave --init out, or name weights")
    init = encoder if encoder is not None and is_path else init
    path, network = Path(init).expanduser(), network_of(init)
    is_folder_or_file = init != "pretrained" and path.exists()
    if is_path and not network:
        missing = (
            "is a file that does not name its architecture" if path.is_file() else "has neither timm's config.json nor a run's config.toml"
        )
        raise ConfigError(f"{encoder!r} {missing}; give the architecture and the weights: --encoder NAME --init FILE")
    named = {} if encoder is None or is_path else {"encoder": encoder}
    return {**network, **named, "init": str(path.resolve()) if is_folder_or_file else init}


@torch.no_grad()
def _check_finite(model: ClusterModel, config: Config[Any], images: Images, device: torch.device) -> None:
    """Check that the features of a few images are finite; raise ConfigError if not."""
    side, m = config.crops.crop_pixels[0], config.model
    sample = sample_of(images, 8, lambda height, width: side / min(height, width))
    prepared = [resize_center(image.pixels, side, m.interpolation) for image in sample]
    if prepared and not model.encode(normalize(torch.stack(prepared).to(device))).isfinite().all():
        weights = m.encoder if m.init == "pretrained" else m.init
        raise ConfigError(f"the weights of {weights!r} compute features that are not finite (NaN or inf); use other weights")


def _check_enough(n: int, k: NClusters) -> None:
    if n == 1:
        raise DataError("one image cannot be clustered; give more images")
    if isinstance(k, int) and n < k:
        raise DataError(f"{n:,} readable images are fewer than {k} clusters; lower k, or give more images")


def _resolved(config: Config[Any]) -> ResolvedConfig:
    return ResolvedConfig(config, dict.fromkeys(flatten(config), "explore"))
