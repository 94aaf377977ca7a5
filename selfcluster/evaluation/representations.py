"""Representations to compare: the run's encoder, its baselines, and other encoders.

Each returns one row per image, of whole images, resized, or of augmented crops. The baselines are the raw pixels, the pretrained encoder
that comes with the install, and the encoder before training; `--beside` adds encoders of other runs and of timm.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from selfcluster import methods
from selfcluster.data.crops import MultiCrop
from selfcluster.data.inspect import look_at
from selfcluster.data.loader import EpochPlan, Loader
from selfcluster.data.readers.images import Images
from selfcluster.device import n_threads, n_workers, precision_of
from selfcluster.evaluation.protocol import Subset
from selfcluster.evaluation.timm_encoder import Encoder, TimmEncoder, timm_encoder
from selfcluster.inference.embeddings import embeddings_of, kept_embeddings
from selfcluster.models.features import ProgressCallback, extract_features, raw_pixels
from selfcluster.models.model import ClusterModel
from selfcluster.models.patches import PATCHES, PREPARATION, PatchEncoder, default_codes, fit_patches, patches_pixels
from selfcluster.models.pretrained import frozen_pixels, is_bundled
from selfcluster.runs.run import OpenRun, open_run
from selfcluster.runs.weights import load_initial_weights
from selfcluster.settings.config import BUNDLED, Config, Interpolation

_PRETRAINED = "pretrained encoder"
"""Name of the one that comes with the install."""
_MAX_RAW_PIXELS = 32
"""Largest side of the images whose raw pixels are a baseline."""
_VIEW_BATCH = 256
_VIEW_EPOCH = 1 << 40
"""Epoch of the views' augmentation, beyond those of any training, so that they are other crops."""
_BLOCK = 4096
"""Rows compared with the prototypes at a time."""


class Representation(abc.ABC):
    """A map from images to rows.

    Args:
        name: its name in the tables.
        pixels: side that images are resized to.
        config: the run's, for workers, threads and augmentation.
        device: where rows are computed.
    """

    def __init__(self, name: str, pixels: int, config: Config, device: torch.device) -> None:
        self.name, self.pixels, self.config, self.device = name, pixels, config, device

    def readers(self, images: Images) -> dict[str, int]:
        """Return the numbers of workers and threads that read these images."""
        return {"workers": n_workers(self.config, self.device, in_memory=images.in_memory), "threads": n_threads(self.config)}

    @abc.abstractmethod
    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        """Return the rows of whole images, in the order of the index; NaN for unreadable ones."""

    @abc.abstractmethod
    def of_crops(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        """Return the rows of normalized crops of side `pixels`."""

    def of_views(self, images: Images, index: NDArray[np.int64]) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n f"]]:
        """Return the rows of two large crops of each readable image, augmented as in training, in the order of the index."""
        batch = min(_VIEW_BATCH, len(index))
        padded = np.resize(index, -(-len(index) // batch) * batch)
        loader = Loader(
            images,
            MultiCrop((2,), (self.pixels,), self.config.crops.area[:1], self.config.augment),
            batch=batch,
            seed=self.config.run.seed,
            device=self.device,
            max_broken_share=1.0,
            **self.readers(images),
        )
        first: list[Tensor] = []
        second: list[Tensor] = []
        try:
            for step, drawn in enumerate(loader.epoch(_VIEW_EPOCH, EpochPlan(padded))):
                places = np.arange(step * batch, (step + 1) * batch)
                # Leave out what replaces a broken image or pads the last batch.
                own = torch.from_numpy((drawn.index.numpy() == padded[places]) & (places < len(index)))
                for rows, crop in zip((first, second), drawn.crops, strict=True):
                    rows.append(self.of_crops(crop)[own.to(crop.device)].float().cpu())
        finally:
            loader.close()
        return torch.cat(first), torch.cat(second)


class Pixels(Representation):
    """Raw pixels of the images."""

    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        return raw_pixels(images, index=index, pixels=self.pixels, seen=seen, **self.readers(images))

    def of_crops(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        mean, deviation = (torch.tensor(x, device=crops.device)[:, None, None] for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
        return (crops * deviation + mean).flatten(1)


class Network(Representation):
    """Features of an encoder in eval mode.

    Args:
        network: the encoder.
        interpolation: how whole images are resized for it.
        precision: dtype that it computes in.
        name, pixels, config, device: as for every representation.
    """

    def __init__(
        self,
        name: str,
        network: Encoder,
        pixels: int,
        interpolation: Interpolation,
        config: Config,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        super().__init__(name, pixels, config, device)
        self.network, self.interpolation, self.precision = network.to(device).eval(), interpolation, precision

    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        return extract_features(
            self.network.encode,
            images,
            index=index,
            pixels=self.pixels,
            interpolation=self.interpolation,
            device=self.device,
            precision=self.precision,
            seen=seen,
            **self.readers(images),
        )

    @torch.no_grad()
    def of_crops(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16):
            return self.network.encode(crops).float()

    @torch.no_grad()
    def prototypes_of(self, features: Float[Tensor, "n f"]) -> tuple[np.ndarray, int] | None:
        """Return the nearest prototype of the first head for each row, and the number of prototypes; None if the network has none."""
        if not isinstance(self.network, ClusterModel):
            return None
        scores = [self.network.prototypes(self.network.head(part.to(self.device)))[0] for part in features.split(_BLOCK)]
        return torch.cat([part.argmax(dim=1).cpu() for part in scores]).numpy(), scores[0].shape[1]


@final
class OwnEncoder(Network):
    """The run's own encoder, which reads the features cached in the run's folder, and caches those of all images."""

    def __init__(self, run: OpenRun) -> None:
        precision = precision_of(run.config, run.device)
        name = "trained encoder"
        if run.config.method == "explore":
            name = _PRETRAINED if is_bundled(run.config.model.encoder) else run.config.model.encoder
        super().__init__(name, run.model, run.pixels, run.config.model.interpolation, run.config, run.device, precision)
        self.run = run

    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        is_all = len(index) == len(images)
        found = embeddings_of(self.run, images) if is_all else kept_embeddings(self.run, images)
        return super().of_images(images, index, seen) if found is None else torch.from_numpy(found.features[index])


def representations(
    run: OpenRun,
    images: Images,
    beside: tuple[str, ...] = (),
    *,
    fitted_to: Subset | None = None,
    untrained: bool = False,
    baselines: bool = True,
) -> Iterator[Representation]:
    """Yield the baselines, then the encoders in `beside`, then the run's own encoder.

    The baselines are the raw pixels, patches, the pretrained encoder that comes with the install (unless the run takes or started from
    that one), and the encoder before training (if it was trained).

    Args:
        run: the evaluated run.
        images: the evaluated images.
        beside: names of timm networks, or folders of other runs. They are created first, so that their errors come early.
        fitted_to: images that patches are fitted to; None for the evaluated ones.
        untrained: whether timm's networks keep random weights.
        baselines: whether there are any.
    Raises:
        ConfigError: a name is unknown, or its weights are not available.
    """
    others = [_beside(name, run, untrained) for name in beside]
    if baselines:
        yield from _baselines(run, images, fitted_to or Subset(images, np.arange(len(images))))
    yield from others
    yield OwnEncoder(run)


def _baselines(run: OpenRun, images: Images, fitted_to: Subset) -> Iterator[Representation]:
    precision = precision_of(run.config, run.device)
    raw_side = min(_MAX_RAW_PIXELS, images.decode(0).pixels.shape[1]) if images.in_memory else _MAX_RAW_PIXELS
    yield Pixels("raw pixels", raw_side, run.config, run.device)
    if run.config.model.encoder != PATCHES:
        side = patches_pixels(look_at(images, len(images), run.device).short_side)
        yield _patches(run, fitted_to, side)
    if not (is_bundled(run.config.model.encoder) and run.config.model.init == "pretrained"):
        side = frozen_pixels(gpu=False)
        bundled = timm_encoder(BUNDLED, untrained=False, seed=run.config.run.seed, pixels=side)
        yield Network(_PRETRAINED, bundled, side, bundled.interpolation, run.config, run.device, precision)
    if run.config.method != "explore":
        before = methods.build_model(run.config)
        load_initial_weights(before.encoder, run.config.model.init)
        name = "untrained encoder" if run.config.model.init == "random" else "encoder before training"
        yield Network(name, before, run.pixels, run.config.model.interpolation, run.config, run.device, precision)


def _patches(run: OpenRun, fitted_to: Subset, side: int) -> Network:
    """Return patches, fitted as `explore --encoder patches` does."""
    encoder, precision = PatchEncoder(side, default_codes(len(fitted_to.index))).to(run.device), precision_of(run.config, run.device)
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        fit_patches(encoder, fitted_to.images, index=fitted_to.index, seed=run.config.run.seed, threads=n_threads(run.config))
    network = TimmEncoder(encoder, dataclasses.replace(PREPARATION, pixels=side))
    return Network(PATCHES, network, side, network.interpolation, run.config, run.device, precision)


def _beside(name: str, run: OpenRun, untrained: bool) -> Network:
    path = Path(name).expanduser()
    if path.is_dir():
        other = open_run(path, device=str(run.device))
        resizing, precision = (other.pixels, other.config.model.interpolation), precision_of(other.config, run.device)
        return Network(f"run {path.name}", other.model, *resizing, run.config, run.device, precision)
    encoder = timm_encoder(name, untrained=untrained, seed=run.config.run.seed)
    shown = f"{name}, untrained" if untrained else name
    resizing, precision = (encoder.pixels, encoder.interpolation), precision_of(run.config, run.device)
    return Network(shown, encoder, *resizing, run.config, run.device, precision)
