"""What is compared: the run's encoder, its floors, and whatever else the user wants beside it.

Every representation makes rows from images in two ways: from whole images, resized, and from crops that were varied. The floors
are the raw pixels and the encoder as it was before training; `--beside` adds another run's encoder, or any of timm's.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import timm
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from selfcluster import methods, randomness
from selfcluster.data.crops import DEVIATION, MEAN, MultiCrop
from selfcluster.data.loader import EpochPlan, Loader
from selfcluster.data.readers.images import Images
from selfcluster.device import n_threads, n_workers, precision_of
from selfcluster.errors import ConfigError, known
from selfcluster.inference.embeddings import embeddings_of, kept_embeddings
from selfcluster.models.encoders import create_encoder, feature_width
from selfcluster.models.features import ProgressCallback, extract_features, raw_pixels
from selfcluster.models.model import ClusterModel
from selfcluster.runs.run import OpenRun, open_run
from selfcluster.runs.weights import load_initial_weights
from selfcluster.settings.config import Config

_PIXELS_OF_FLOOR = 32
"""Raw pixels are compared at this side at most."""

_VIEW_BATCH = 256


class Representation(abc.ABC):
    """From images to rows.

    Args:
        name: as it stands in the tables.
        pixels: side to which images are resized.
        config: of the run, for who reads the images and how crops are varied.
        device: where rows are made.
    """

    def __init__(self, name: str, pixels: int, config: Config, device: torch.device) -> None:
        self.name, self.pixels, self.config, self.device = name, pixels, config, device

    def readers(self, images: Images) -> dict[str, int]:
        """Who reads these images."""
        return {"workers": n_workers(self.config, self.device, in_memory=images.in_memory), "threads": n_threads(self.config)}

    @abc.abstractmethod
    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        """Rows of whole images, in the order of the index; NaN for what cannot be read."""

    @abc.abstractmethod
    def of_crops(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        """Rows of normalized crops of `pixels` a side."""

    def of_views(self, images: Images, index: NDArray[np.int64]) -> tuple[Float[Tensor, "n f"], Float[Tensor, "n f"]]:
        """Rows of two of the run's large crops of each readable image, varied as in training; in the order of the index."""
        crops, settings = self.config.crops, self.config
        batch = min(_VIEW_BATCH, len(index))
        padded = np.resize(index, -(-len(index) // batch) * batch)
        loader = Loader(
            images,
            MultiCrop((2,), (self.pixels,), crops.area[:1], settings.augment),
            batch=batch,
            seed=settings.run.seed,
            device=self.device,
            max_broken_share=1.0,
            **self.readers(images),
        )
        first: list[Tensor] = []
        second: list[Tensor] = []
        try:
            for step, drawn in enumerate(loader.epoch(_VIEW_EPOCH, EpochPlan(padded))):
                places = np.arange(step * batch, (step + 1) * batch)
                # What stands in for a broken image, or fills up the last batch, has its row elsewhere.
                own = torch.from_numpy((drawn.index.numpy() == padded[places]) & (places < len(index)))
                for rows, crop in zip((first, second), drawn.crops, strict=True):
                    rows.append(self.of_crops(crop)[own.to(crop.device)].float().cpu())
        finally:
            loader.close()
        return torch.cat(first), torch.cat(second)


_VIEW_EPOCH = 1 << 40
"""No epoch of a training, so that its crops are others."""


class Pixels(Representation):
    """The images themselves."""

    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        return raw_pixels(images, index=index, pixels=self.pixels, seen=seen, **self.readers(images))

    def of_crops(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        mean, deviation = (torch.tensor(x, device=crops.device)[:, None, None] for x in (MEAN, DEVIATION))
        return (crops * deviation + mean).flatten(1)


class Network(Representation):
    """What an encoder makes of images, in eval mode.

    Args:
        model: has `encode`, from normalized images to features.
        n_features: width of these.
        precision: of the encoder.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        n_features: int,
        pixels: int,
        config: Config,
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        super().__init__(name, pixels, config, device)
        self.network, self.n_features, self.precision = model.to(device).eval(), n_features, precision

    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        return extract_features(
            self.network.encode,  # type: ignore[arg-type]
            images,
            index=index,
            pixels=self.pixels,
            device=self.device,
            precision=self.precision,
            seen=seen,
            **self.readers(images),
        )

    @torch.no_grad()
    def of_crops(self, crops: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16):
            return self.network.encode(crops).float()  # type: ignore[operator]

    @torch.no_grad()
    def prototypes_of(self, features: Float[Tensor, "n f"]) -> tuple[NDArray[np.int64], int] | None:
        """The nearest prototype of the first head for each row, and how many there are; None where there are none."""
        if not isinstance(self.network, ClusterModel):
            return None
        scores = [self.network.prototypes(self.network.head(part.to(self.device)))[0] for part in features.split(4096)]
        return torch.cat([part.argmax(dim=1).cpu() for part in scores]).numpy(), scores[0].shape[1]


@final
class OwnEncoder(Network):
    """The run's own encoder, whose features of whole collections are those that its folder keeps."""

    def __init__(self, run: OpenRun) -> None:
        precision = precision_of(run.config, run.device)
        super().__init__("trained encoder", run.model, run.model.n_features, run.pixels, run.config, run.device, precision)
        self.run = run

    def of_images(self, images: Images, index: NDArray[np.int64], seen: ProgressCallback) -> Float[Tensor, "n f"]:
        is_all = len(index) == len(images)
        found = embeddings_of(self.run, images) if is_all else kept_embeddings(self.run, images)
        return super().of_images(images, index, seen) if found is None else torch.from_numpy(found.features[index])


class TimmEncoder(nn.Module):
    """One of timm's networks, which wants images normalized in its own way."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        own = getattr(encoder, "pretrained_cfg", {})
        for name, values in (("mean", own.get("mean", MEAN)), ("deviation", own.get("std", DEVIATION))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.is_ours = tuple(own.get("mean", MEAN)) == MEAN and tuple(own.get("std", DEVIATION)) == DEVIATION

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        """The features of images that are normalized by ImageNet's mean and deviation."""
        if not self.is_ours:
            mean, deviation = (torch.tensor(x, device=images.device)[:, None, None] for x in (MEAN, DEVIATION))
            images = (images * deviation + mean - self.mean) / self.deviation
        return self.encoder(images)


def representations(run: OpenRun, images: Images, beside: tuple[str, ...] = (), *, untrained: bool = False) -> Iterator[Representation]:
    """Yields raw pixels, the encoder before training, those beside, and the run's own encoder.

    Args:
        run: whose encoder it is.
        images: that will be looked at.
        beside: timm's names, or folders of other runs. They are made before anything is yielded, so that what fails, fails first.
        untrained: timm's networks keep their random weights.
    Raises:
        ConfigError: an unknown name, or weights that are not to be had.
    """
    others = [_beside(name, run, untrained) for name in beside]
    before = methods.build_model(run.config)
    load_initial_weights(before, run.config.model.init)
    precision = precision_of(run.config, run.device)
    yield Pixels("raw pixels", _pixels_of_floor(images), run.config, run.device)
    name = "untrained encoder" if run.config.model.init == "random" else "encoder before training"
    yield Network(name, before, before.n_features, run.pixels, run.config, run.device, precision)
    yield from others
    yield OwnEncoder(run)


def _pixels_of_floor(images: Images) -> int:
    return min(_PIXELS_OF_FLOOR, images.decode(0).pixels.shape[1]) if images.in_memory else _PIXELS_OF_FLOOR


def _beside(name: str, run: OpenRun, untrained: bool) -> Network:
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser()
        other = open_run(path, device=str(run.device))
        precision = precision_of(other.config, run.device)
        return Network(f"run {path.name}", other.model, other.model.n_features, other.pixels, run.config, run.device, precision)
    known(name.split(".")[0], timm.list_models(), "encoder")
    side = _side_of(name)
    encoder = _timm_encoder(name, side, untrained, run.config.run.seed)
    model, precision = TimmEncoder(encoder), precision_of(run.config, run.device)
    shown = f"{name}, untrained" if untrained else name
    return Network(shown, model, feature_width(encoder, side), side, run.config, run.device, precision)


def _side_of(name: str) -> int:
    """Side of the images that the network was made for."""
    settings = _pretrained_settings(name)
    return int(settings.input_size[-1]) if settings is not None else 224


def _pretrained_settings(name: str) -> Any:
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_pretrained(f"{name.split('.')[0]}.*")[:6])
        raise ConfigError(f"{' '.join(str(error).split())[:160]} Choose from {tags}") from None


def _timm_encoder(name: str, side: int, untrained: bool, seed: int) -> nn.Module:
    if not untrained:
        settings = _pretrained_settings(name)
        if settings is None or not settings.has_weights:
            raise ConfigError(f"timm has no pretrained weights of {name!r}; choose another, or add --beside-untrained for random ones")
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # what the hub complains of is told below, in one line
        with randomness.forked(seed):
            return create_encoder(name, (side,), pretrained=not untrained)
    except ConfigError as error:
        reason = str(error).split("; ")[0]
        raise ConfigError(f"{reason}; check the name and the network, or add --beside-untrained for random weights") from None
    finally:
        logging.disable(before)
