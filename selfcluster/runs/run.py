"""A run's folder, opened: its settings, its weights and its images. What every use of a run is given."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from selfcluster.data.readers.images import Images
from selfcluster.data.sources import Data, open_data
from selfcluster.device import n_threads, n_workers, precision_of, start
from selfcluster.distributed import logger
from selfcluster.errors import DataError
from selfcluster.models.features import stream_features
from selfcluster.models.model import ClusterModel
from selfcluster.runs import folder
from selfcluster.runs.metrics import read_rows
from selfcluster.settings.config import Config, DataSettings


@final
class OpenRun:
    """A trained (or half-trained) run in its folder.

    Attributes:
        path: the folder.
        config: all settings.
        model: encoder, head and prototypes, in eval mode.
        metrics: the rows of metrics.jsonl, oldest first.
    """

    def __init__(self, path: Path, config: Config[Any], images: str, model: ClusterModel) -> None:
        self.path, self.config, self.model = path, config, model.eval()
        self.images = images
        """Where the images were, or "" for an array that was passed in."""
        self.device = next(model.parameters()).device

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, method={self.config.method!r}, encoder={self.config.model.encoder!r})"

    @property
    def metrics(self) -> list[dict[str, float]]:
        return read_rows(self.path / "metrics.jsonl")

    @property
    def pixels(self) -> int:
        """Side to which images are resized for this encoder outside training."""
        return self.config.crops.crop_pixels[0]

    @property
    def step(self) -> int:
        """Of the checkpoint that the weights are of."""
        return json.loads((self.path / "checkpoints" / "last.json").read_text())["step"]

    @cached_property
    def weights_digest(self) -> str:
        """Changes with the encoder's weights."""
        digest = hashlib.sha256()
        for name, tensor in self.model.encoder.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def data(self, given: Any = None, *, labels: str = "auto") -> Data:
        """The run's own data with its labels, unless others are named; or other data under the run's limits. Opened data stay as they are.

        Where they have splits, it is the training split that is meant, and that is said.

        Raises:
            DataError: the run was trained on an array, which has to be given again, or elsewhere, on images that nobody knows here.
        """
        if isinstance(given, Data):
            return given
        if given is None and not folder.has_data(self.path):
            raise DataError(f"run {str(self.path)!r} was imported or exported, and knows no images of its own; give the images (DATA)")
        if given is None and not self.images:
            raise DataError(f"run {str(self.path)!r} was trained on an array that is not kept; give the images again")
        own = self.config.data if given is None else DataSettings(max_megapixels=self.config.data.max_megapixels)
        opened = open_data(self.images if given is None else given, own if labels == "auto" else dataclasses.replace(own, labels=labels))
        if opened.test is not None:
            logger.info(
                f"{opened.name} has splits: these are the {len(opened.images):,} images of its training split; name the other to have that one"
            )
        return opened

    def is_own(self, images: Images) -> bool:
        """Whether these are the images that the run was trained on."""
        return folder.has_data(self.path) and folder.read_digest(self.path) == images.digest()

    def trained_on(self) -> NDArray[np.int64]:
        """Indices of the images that it was trained on; the others were kept out."""
        return folder.read_trained_on(self.path)

    def stream(
        self,
        images: Images,
        *,
        index: NDArray[np.int64] | None = None,
        beside: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Float[Tensor, "b _"]]:
        """The features of images, batch by batch; rows of images that cannot be read are NaN.

        Args:
            images: where they come from.
            index: which of them, in which order; None for all.
            beside: what else is made of the prepared images, as further columns.
        """
        encode = self.model.encode
        return stream_features(
            encode if beside is None else lambda prepared: torch.cat([encode(prepared).float(), beside(prepared)], dim=1),
            images,
            index=index,
            pixels=self.pixels,
            device=self.device,
            precision=precision_of(self.config, self.device),
            workers=n_workers(self.config, self.device, in_memory=images.in_memory),
            threads=n_threads(self.config),
        )


def open_run(path: str | Path, *, device: str = "cpu") -> OpenRun:
    """The run in this folder, with the weights of its last checkpoint.

    Raises:
        CheckpointError: it is no run, has no checkpoint yet, or is damaged.
    """
    config, images, model = folder.read_model(Path(path))
    return OpenRun(Path(path), config, images, model.to(start(device)))
