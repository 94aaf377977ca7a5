"""Extraction between epochs: every image to train on goes through the network once, for methods that assign offline.

Each rank takes its share, and rows are stored by the index of their image, so that the result does not depend on the order of reading, the
number of ranks, or the images that fill up the last batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfcluster import distributed, randomness
from selfcluster.data.crops import MultiCrop, normalize
from selfcluster.data.loader import EpochPlan, Loader
from selfcluster.data.readers.images import why_unreadable
from selfcluster.methods.base import Extractor
from selfcluster.models.features import in_mode, prepared_images
from selfcluster.models.filters import Renormalize
from selfcluster.models.patches import N_FEATURES, PREPARATION, PatchEncoder, default_codes, fit_patches, patches_pixels
from selfcluster.models.rows import Rows, RowsByIndex
from selfcluster.runs.log import Log
from selfcluster.training.collapse import require_finite
from selfcluster.training.state import Training

_ORDER, _DROPOUT = 0xE1, 0xE2
"""Keys of the random draws."""


def extractor(t: Training, epoch: int, log: Log, folder: Path | None, *, leave_if_asked: Callable[[], None] = lambda: None) -> Extractor:
    """Return the function that `begin_epoch` receives.

    Args:
        t: the training.
        epoch: the epoch that begins.
        log: receives progress.
        folder: run folder, for features that do not fit `features_gib`; None for the system's temporary folder.
        leave_if_asked: called between batches while nothing of the run has changed: not in train mode, which updates the running statistics of
            batch norm.
    """

    def extract(
        what: Literal["features", "embeddings", "patches"], *, view: Literal["center", "assign"] = "center", train_mode: bool = False
    ) -> Rows:
        index = np.array_split(t.method.trained_on, distributed.n_ranks())[distributed.rank()]
        if view == "assign":
            batches, index = _assign_crops(t, epoch, what)
        elif what == "patches":
            encoder = fitted_patches(t)
            prepare = Renormalize(PREPARATION.mean, PREPARATION.deviation).to(t.device)
            batches = _centers(t, index, nn.Sequential(prepare, encoder), encoder.side)
        else:
            network = t.model.encode if what == "features" else t.model.project
            batches = _centers(t, index, network, t.config.crops.crop_pixels[0])
        rows = RowsByIndex(index, memory_bytes=t.config.run.features_gib * 2**30, folder=folder)
        width = {"features": t.model.n_features, "embeddings": t.model.prototypes.weight.shape[1], "patches": N_FEATURES}[what]
        # A rank that cannot read any of its images also has rows of this width.
        rows.put(index[:0], torch.empty(0, *((t.model.n_assign, width) if view == "assign" else (width,))))
        done, started = 0, time.perf_counter()
        randomness.reseed(t.config.run.seed, epoch, distributed.rank(), _DROPOUT)
        with torch.no_grad(), in_mode(t.model, training=train_mode):
            for of_batch, values in batches:
                require_finite(values, what, t.state.step)
                rows.put(of_batch, values)
                done += len(of_batch)
                log.working(f"extracting {what}", done, len(index), done / (time.perf_counter() - started))
                if not train_mode:
                    leave_if_asked()
        if done < len(index):  # the rest cannot be read
            log.working(f"extracting {what}", len(index), len(index), done / (time.perf_counter() - started))
        return rows.rows()

    return extract


OutputBatch = tuple[NDArray[np.int64], Tensor]
"""Indices of some images, and the network's output for them."""


def fitted_patches(t: Training) -> PatchEncoder:
    """Return the encoder of patches, which is fitted to the images to train on when it is first asked for."""
    if t.patches is None:
        encoder = PatchEncoder(patches_pixels(t.config.crops.crop_pixels[0]), default_codes(len(t.method.trained_on))).to(t.device)
        with t.autocast():
            fit_patches(
                encoder,
                t.loader.images,
                index=t.method.trained_on,
                seed=t.config.run.seed,
                workers=t.loader.workers,
                threads=t.loader.threads,
            )
        t.patches = encoder
    return t.patches


def _centers(t: Training, index: NDArray[np.int64], network: Callable[[Tensor], Tensor], pixels: int) -> Iterator[OutputBatch]:
    """Yield outputs for whole images, resized to `pixels` as for any use after training."""
    batches = prepared_images(
        t.loader.images,
        index=index,
        pixels=pixels,
        interpolation=t.config.model.interpolation,
        workers=t.loader.workers,
        threads=t.loader.threads,
    )
    start = 0
    for prepared, readable in batches:
        of_batch = index[start : start + len(prepared)]
        start += len(prepared)
        if not readable.all():  # workers return no reasons, so read these images again to get them
            t.loader.note_broken(why_unreadable(t.loader.images, of_batch[~readable.numpy()]))
        if readable.any():
            with t.autocast():
                values = network(normalize(prepared[readable].to(t.device, non_blocking=True)))
            yield of_batch[readable.numpy()], values.float()


def _assign_crops(t: Training, epoch: int, what: str) -> tuple[Iterator[OutputBatch], NDArray[np.int64]]:
    """Return outputs for the assign crops, in shuffled batches as in training, and the indices of this rank's images.

    The last batch is filled up with the first images of the order.
    """
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

    def outputs() -> Iterator[OutputBatch]:
        try:
            for step, drawn in enumerate(loader.epoch(epoch, EpochPlan(padded))):
                with t.autocast():
                    out = t.model(t.model.run_frozen(drawn.crops))
                values = (out.features if what == "features" else out.embeddings).transpose(0, 1).float()
                # Images that replace a broken one or fill up the last batch have their row elsewhere.
                own = (drawn.index.numpy() == padded[positions[step]]) & (positions[step] < len(order))
                yield drawn.index.numpy()[own], values[torch.from_numpy(own).to(values.device)]
        finally:
            loader.close()

    return outputs(), np.sort(padded[positions[positions < len(order)]])
