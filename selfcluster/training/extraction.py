"""Between epochs: every image to train on goes through the network once, for methods that assign offline.

Each rank takes its share, and each row lands by the index of its image, so neither the order of reading, nor the number of
ranks, nor what a last batch is filled up with can matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import distributed, randomness
from selfcluster.data.crops import MultiCrop, normalize
from selfcluster.data.loader import EpochPlan, Loader
from selfcluster.errors import DataError
from selfcluster.methods.base import Extract
from selfcluster.models.features import Rows, RowsByIndex, in_mode, prepared_images
from selfcluster.runs.log import Log
from selfcluster.training.collapse import require_finite
from selfcluster.training.state import Training

_ORDER, _DROPOUT = 0xE1, 0xE2
"""Keep the draws of one epoch apart."""


def extractor(t: Training, epoch: int, log: Log, folder: Path | None, *, leave_if_asked: Callable[[], None] = lambda: None) -> Extract:
    """The function that `begin_epoch` receives.

    Args:
        t: of the run.
        epoch: that begins.
        log: shows progress.
        folder: of the run, for features that do not fit `features_gib`; None for the system's folder of temporary files.
        leave_if_asked: called between batches, while nothing of the run has changed: not in train mode, which moves the running
            statistics of batch norm.
    """

    def extract(what: Literal["features", "embeddings"], *, view: Literal["center", "assign"] = "center", train_mode: bool = False) -> Rows:
        index = np.array_split(t.method.trained_on, distributed.n_ranks())[distributed.rank()]
        if view == "assign":
            parts, index = _assign_crops(t, epoch, what)
        else:
            parts = _centers(t, index, what)
        rows = RowsByIndex(index, memory_bytes=t.config.run.features_gib * 2**30, folder=folder)
        width = t.model.n_features if what == "features" else t.model.prototypes.weight.shape[1]
        # Also a rank that can read none of its images has rows of this width.
        rows.put(index[:0], torch.empty(0, *((t.model.n_assign, width) if view == "assign" else (width,))))
        done, started = 0, time.perf_counter()
        randomness.reseed(t.config.run.seed, epoch, distributed.rank(), _DROPOUT)
        with torch.no_grad(), in_mode(t.model, training=train_mode):
            for places, values in parts:
                require_finite(values, what, t.state.step)
                rows.put(places, values)
                done += len(places)
                log.working(f"extracting {what}", done, len(index), done / (time.perf_counter() - started))
                if not train_mode:
                    leave_if_asked()
        if done < len(index):  # the rest cannot be read
            log.working(f"extracting {what}", len(index), len(index), done / (time.perf_counter() - started))
        return rows.rows()

    return extract


Part = tuple[NDArray[np.int64], Tensor]
"""Indices, and the network's output for these images."""


def _centers(t: Training, index: NDArray[np.int64], what: str) -> Iterator[Part]:
    """Whole images, resized, as they are when the network is used."""
    network = t.model.encode if what == "features" else t.model.embed
    batches = prepared_images(
        t.loader.images, index=index, pixels=t.config.crops.crop_pixels[0], workers=t.loader.workers, threads=t.loader.threads
    )
    start = 0
    for images, readable in batches:
        places = index[start : start + len(images)]
        start += len(images)
        _note_broken(t.loader, places[~readable.numpy()])
        if readable.any():
            with t.autocast():
                values = network(normalize(images[readable].to(t.device, non_blocking=True)))
            yield places[readable.numpy()], values.float()


def _assign_crops(t: Training, epoch: int, what: str) -> tuple[Iterator[Part], NDArray[np.int64]]:
    """The crops that get targets, in batches as in training: shuffled, and the last one filled up with images that came before."""
    trained_on, batch, crops = t.method.trained_on, t.config.optim.batch, t.config.crops
    order = trained_on[randomness.permutation(len(trained_on), t.config.run.seed, epoch, _ORDER)]
    padded = np.resize(order, -(-len(order) // batch) * batch)
    loader = Loader(
        t.loader.images,
        MultiCrop(crops.n_crops[:1], crops.crop_pixels[:1], crops.area[:1], t.config.augment),
        batch=batch,
        seed=t.config.run.seed,
        device=t.device,
        workers=t.loader.workers,
        threads=t.loader.threads,
        max_broken_share=t.loader.max_broken_share,
    )
    loader.broken = t.loader.broken
    mine = distributed.shard_of(batch)
    positions = np.arange(len(padded)).reshape(-1, batch)[:, mine]

    def parts() -> Iterator[Part]:
        for step, drawn in enumerate(loader.epoch(epoch, EpochPlan(padded))):
            with t.autocast():
                out = t.model(drawn.crops)
            values = (out.features if what == "features" else out.embeddings).transpose(0, 1).float()
            # What stands in for a broken image, or fills up the last batch, has its row elsewhere.
            own = (drawn.index.numpy() == padded[positions[step]]) & (positions[step] < len(order))
            yield drawn.index.numpy()[own], values[torch.from_numpy(own).to(values.device)]
        loader.close()

    return parts(), np.sort(padded[positions[positions < len(order)]])


def _note_broken(loader: Loader, index: NDArray[np.int64]) -> None:
    """The loader knows of images that cannot be read, and why."""
    for image in index.tolist():
        try:
            loader.images.decode(image)
        except DataError as error:
            loader.note_broken({image: str(error)})
