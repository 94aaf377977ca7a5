"""Batches for an encoder with frozen stages, which run once for each of the crops that repeat, and never again.

What they compute depends on the crop alone, so that it is stored, in half precision, before the first epoch that needs it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import distributed
from selfcluster.data.loader import Batch, EpochPlan, Loader
from selfcluster.models.model import ClusterModel
from selfcluster.models.rows import RowsByIndex


class FrozenLoader(Loader):
    """A loader whose batches have gone through the frozen stages of the encoder.

    If crops repeat and there is a single process, the stages run once over all images for each of the repeated crops. Otherwise they run on
    every batch: an epoch shuffles the images over the ranks, so each would need all.

    Args:
        model: has frozen stages.
        precision: of the frozen stages.
        trained_on: indices of the images to train on.
        memory_bytes: size above which their output goes to a file in the system's temporary folder.
        settings: as for `Loader`.
    """

    def __init__(
        self,
        *,
        model: ClusterModel,
        precision: torch.dtype,
        trained_on: NDArray[np.int64],
        memory_bytes: float,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.model, self.precision, self.trained_on, self.memory_bytes = model, precision, np.sort(trained_on), memory_bytes
        self.keeps = bool(self.repeat_after) and model.runs_frozen_apart and not distributed.is_on()
        self._kept: dict[int, list[RowsByIndex]] = {}
        """For each view that has been run: the stages' output for each of its crops."""

    def epoch(self, epoch: int, plan: EpochPlan, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from step `start` on; see `Loader.epoch`."""
        if not self.keeps:
            for batch in super().epoch(epoch, plan, start=start):
                yield self._run(batch)
            return
        views = self.view(epoch, plan.occurrence)
        for view in np.unique(views):
            if view not in self._kept:
                self._kept[view] = self._run_view(int(view))
        order, views = self._replaced(plan.order, views)
        for step in range(start, self.n_steps(plan)):
            places = slice(step * self.batch, (step + 1) * self.batch)
            asked = time.perf_counter()
            batch = Batch(torch.from_numpy(order[places]), self._crops(order[places], views[places]))
            self.wait_seconds += time.perf_counter() - asked
            yield batch

    def sampled(self, plan: EpochPlan) -> tuple[Iterator[Batch], float]:
        """Return one batch of a plan again and again, and the seconds of running the frozen stages for all views, which two batches tell."""
        if not self.keeps:
            return super().sampled(plan)
        batches = super().epoch(0, plan)
        self._run(next(batches))  # the first is slower
        began = time.perf_counter()
        batch = next(batches, None)
        batch = self._run(batch if batch is not None else next(super().epoch(0, plan)))
        seconds = time.perf_counter() - began
        self.close()
        return itertools.repeat(batch, self.n_steps(plan)), seconds * self.n_steps(plan) * self.repeat_after

    def _run(self, batch: Batch) -> Batch:
        if not self.model.runs_frozen_apart:
            return Batch(batch.index, self.model.run_frozen(batch.crops))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == torch.bfloat16):
            # Rounded as if they had been stored, so that results are the same on several ranks.
            return Batch(batch.index, [crops.half().float() for crops in self.model.run_frozen(batch.crops)])

    def _run_view(self, view: int) -> list[RowsByIndex]:
        """Run the frozen stages on the crops of one view of all images."""
        n, began = len(self.trained_on), time.perf_counter()
        padded = np.resize(self.trained_on, -(-n // self.batch) * self.batch)
        kept: list[RowsByIndex] = []
        for step, batch in enumerate(super().epoch(view, EpochPlan(padded))):
            places = np.arange(step * self.batch, (step + 1) * self.batch)
            own = torch.from_numpy((batch.index.numpy() == padded[places]) & (places < n))
            crops = self._run(batch).crops
            kept = kept or [self._rows(crop, n_crops=len(crops)) for crop in crops]
            for rows, crop in zip(kept, crops, strict=True):
                rows.put(batch.index[own].numpy(), crop[own.to(crop.device)])
            done = min(n, (step + 1) * self.batch)
            self.report(f"running the frozen stages, view {view + 1} of {self.repeat_after}", done, n, done / (time.perf_counter() - began))
        self.close()
        return kept

    def _rows(self, crop: Tensor, *, n_crops: int) -> RowsByIndex:
        share = self.memory_bytes / (n_crops * self.repeat_after)
        return RowsByIndex(self.trained_on, memory_bytes=share, folder=None, dtype=np.float16)

    def _replaced(self, order: NDArray[np.int64], views: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Replace images that cannot be read by the next of the order that can."""
        is_there = self._kept[int(views[0])][0].is_there[np.searchsorted(self.trained_on, order)]
        readable = np.flatnonzero(is_there)
        following = readable[np.searchsorted(readable, np.arange(len(order))) % len(readable)]
        return order[following], views[following]

    def _crops(self, index: NDArray[np.int64], views: NDArray[np.int64]) -> list[Tensor]:
        """Return the stored rows of the crops, each image with its view."""
        by_view = np.argsort(views, kind="stable")
        parts = [(self._kept[int(view)], index[views == view]) for view in np.unique(views)]
        crops = []
        for of_crop in zip(*(kept for kept, _ in parts), strict=True):
            stored = np.concatenate([rows.stored(part) for rows, (_, part) in zip(of_crop, parts, strict=True)])
            given = torch.from_numpy(stored[np.argsort(by_view)]).to(self.device).float()
            crops.append(given.contiguous(memory_format=torch.channels_last) if given.ndim == 4 else given)
        return crops
