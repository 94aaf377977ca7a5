"""An opened run: settings, weights and images. Every use of a run takes one."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from selfcluster.data.dataset import Data
from selfcluster.data.readers.images import Images
from selfcluster.data.sources import open_data
from selfcluster.device import n_threads, n_workers, precision_of, start
from selfcluster.distributed import logger
from selfcluster.errors import DataError
from selfcluster.models.features import stream_features
from selfcluster.models.model import ClusterModel
from selfcluster.runs.checkpoint import last_step
from selfcluster.runs.folder import read_model
from selfcluster.runs.manifest import has_manifest, read_manifest
from selfcluster.runs.metrics import read_rows
from selfcluster.settings.config import Config, DataSettings


@final
class OpenRun:
    """A trained or partly trained run in its folder.

    Attributes:
        path: the folder.
        config: all settings.
        model: encoder, head and prototypes, in eval mode.
        metrics: the rows of metrics.jsonl, oldest first.
    """

    def __init__(self, path: Path, config: Config[Any], images: str, model: ClusterModel) -> None:
        self.path, self.config, self.model = path, config, model.eval()
        self.images = images
        """Location of the images; "" for an array, or if it is not known."""
        self.device = next(model.parameters()).device

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, method={self.config.method!r}, encoder={self.config.model.encoder!r})"

    @property
    def metrics(self) -> list[dict[str, float]]:
        return read_rows(self.path / "metrics.jsonl")

    @property
    def pixels(self) -> int:
        """Side to which images are resized outside training."""
        return self.config.crops.crop_pixels[0]

    @property
    def step(self) -> int:
        """Step of the checkpoint that the weights come from."""
        return last_step(self.path)

    @cached_property
    def weights_digest(self) -> str:
        """Hash of the encoder's weights."""
        digest = hashlib.sha256()
        for name, tensor in self.model.encoder.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def data(self, given: Any = None, *, labels: str = "auto") -> Data:
        """Open data; of data with splits, the training split.

        Args:
            given: anything that `train` takes, which is opened under the run's limits; None for the run's own data. Opened data are returned as they are.
            labels: as the setting of that name; "auto" keeps the setting of the run for its own data.
        Raises:
            DataError: the run's own data are not available, since it was trained on an array, or imported or exported.
        """
        if isinstance(given, Data):
            return given
        if given is None and not has_manifest(self.path):
            raise DataError(f"run {str(self.path)!r} was imported or exported without its images; name the images (IMAGES)")
        if given is None and not self.images:
            raise DataError(f"run {str(self.path)!r} was trained on an array, which is not saved; pass the images again")
        own = self.config.data if given is None else DataSettings(max_megapixels=self.config.data.max_megapixels)
        opened = open_data(self.images if given is None else given, own if labels == "auto" else dataclasses.replace(own, labels=labels))
        if opened.test is not None:
            other = f"; pass {opened.test_where} for the other" if opened.test_where else ""
            logger.info(f"found train/test splits in {opened.name}; using train ({len(opened.images):,} images){other}")
        return opened

    def is_own(self, images: Images) -> bool:
        """Return whether these are the run's own images."""
        return has_manifest(self.path) and read_manifest(self.path).digest == images.digest()

    def trained_on(self) -> NDArray[np.int64]:
        """Return the indices of the images that the run was trained on; the others were held out."""
        return read_manifest(self.path).trained_on

    def stream(
        self,
        images: Images,
        *,
        index: NDArray[np.int64] | None = None,
        extra: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Float[Tensor, "b _"]]:
        """Yield the features of images, batch by batch; rows of images that cannot be read are NaN.

        Args:
            images: the source.
            index: images to read, in this order; None for all.
            extra: further columns, computed from the prepared images.
        """

        def columns(prepared: Tensor) -> Tensor:
            features = self.model.encode(prepared)
            return features if extra is None else torch.cat([features.float(), extra(prepared)], dim=1)

        return stream_features(
            columns,
            images,
            index=index,
            pixels=self.pixels,
            interpolation=self.config.model.interpolation,
            device=self.device,
            precision=precision_of(self.config, self.device),
            workers=n_workers(self.config, self.device, in_memory=images.in_memory),
            threads=n_threads(self.config),
        )


def open_run(path: str | Path, *, device: str = "cpu") -> OpenRun:
    """Open the run in a folder, with the weights of its last checkpoint.

    Raises:
        CheckpointError: the folder is not a run, has no checkpoint yet, or is damaged.
    """
    config, images, model = read_model(Path(path))
    return OpenRun(Path(path), config, images, model.to(start(device)))
