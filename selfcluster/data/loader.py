"""Batches that know which images they hold.

Each rank takes its slice of every global batch of the epoch's order. Workers decode an image once and cut all its crops from it;
the training device varies their colors. A broken image is replaced by the next readable one of the order: whether an image can
be read is a property of the data, so the replacement is the same in every run, with any number of workers.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from selfcluster import distributed
from selfcluster.data.crops import CropParameters, MultiCrop
from selfcluster.data.readers.images import Decoded, DecodeLimit, Images, in_full
from selfcluster.device import Map, in_threads
from selfcluster.errors import DataError

_LOOKAHEAD = 256
"""How many positions past a batch a replacement is looked for."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch."""

    index: Int64[Tensor, " b"]
    """Position of each image in the data set."""
    crops: list[Float[Tensor, "b 3 _ _"]]
    """Every crop of every image, large ones first."""

    def parts(self, n: int) -> list[Batch]:
        """The batch in n equal parts."""
        of_crops = zip(*(crop.chunk(n) for crop in self.crops), strict=True)
        return [Batch(index, list(crops)) for index, crops in zip(self.index.chunk(n), of_crops, strict=True)]


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch trains on, in which order. Part of every checkpoint; what it tells is not."""

    order: NDArray[np.int64]
    """Image indices in the order of training; an index may occur several times."""
    reset: tuple[str, ...] = ()
    """Names of parameters that begin anew, so that the optimizers forget what they know of them."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Of the clustering, by metric name."""
    notes: tuple[str, ...] = ()
    """What the user should be told of it."""
    warnings: tuple[str, ...] = ()
    """Collapses found by it, where `on_collapse` is warn."""
    occurrence: NDArray[np.int64] = field(init=False)
    """How often the same index stood earlier in the order, so that each occurrence gets crops of its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "occurrence", _occurrences(self.order))


def _occurrences(order: NDArray[np.int64]) -> NDArray[np.int64]:
    by_index = np.argsort(order, kind="stable")
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = np.diff(order[by_index]) != 0
    run_starts = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    occurrence = np.empty(len(order), dtype=np.int64)
    occurrence[by_index] = np.arange(len(order)) - run_starts
    return occurrence


@dataclass(frozen=True)
class _Task:
    """One rank's part of one step: its positions in the order, and those that replacements come from."""

    epoch: int
    index: NDArray[np.int64]
    """Image at each position of this part, then at the following ones."""
    occurrence: NDArray[np.int64]
    replacement_occurrence: NDArray[np.int64]
    """For an image that stands in at a position: above every natural occurrence, so that its crops are its own."""
    n: int
    known_broken: dict[int, str]


@dataclass(frozen=True)
class _Cut:
    """What a worker makes of a task."""

    index: Tensor
    drawn: CropParameters
    crops: list[Tensor]
    """Cut, but for images in memory, which are cut where they are varied: then their pixels."""
    broken: dict[int, str]
    """Images newly found unreadable, and why."""
    failure: str = ""
    """Why there are no crops; told and not raised, since the DataLoader would wrap the worker's stack trace around the one line."""

    def pin_memory(self) -> _Cut:
        """What the DataLoader calls; a record without it would be left in ordinary memory."""
        return replace(self, crops=[crops.pin_memory() for crops in self.crops])


class _CutCrops(Dataset):
    """Runs in the workers: from a task to decoded, cut crops."""

    def __init__(self, images: Images, crops: MultiCrop, seed: int, each: Map) -> None:
        self.images, self.crops, self.seed, self.each = images, crops, seed, each

    def __getitem__(self, task: _Task) -> _Cut:
        index, occurrence = task.index[: task.n].copy(), task.occurrence[: task.n].copy()
        drawn = self._draw(task, index, occurrence)
        if self.images.in_memory:
            return _Cut(torch.from_numpy(index), drawn, [self.images.take(index)], {})
        broken = dict(task.known_broken)
        decoded = list(self.each(lambda place: self._read(int(index[place]), self.crops.least(drawn, place), broken), range(task.n)))
        failure = ""
        for place in [place for place in range(task.n) if decoded[place] is None]:
            candidate, decoded[place] = self._stand_in(task, place, broken)
            if candidate is None:
                first = int(task.index[place])
                n, reason = len(np.unique(task.index[place:])), broken[first]
                failure = f"{n:,} images in a row cannot be read (first: {self.images.path(first)!r} {reason}); check the data"
                break
            index[place], occurrence[place] = task.index[candidate], task.replacement_occurrence[place]
            drawn = self._draw(task, index, occurrence)
        new = {image: reason for image, reason in broken.items() if image not in task.known_broken}
        whole = [image for image in decoded if image is not None]
        cut = [] if failure else self.crops.cut(whole, drawn, self.each)
        return _Cut(torch.from_numpy(index), drawn, cut, new, failure)

    def _draw(self, task: _Task, index: NDArray[np.int64], occurrence: NDArray[np.int64]) -> CropParameters:
        return self.crops.draw(index, seed=self.seed, epoch=task.epoch, occurrence=occurrence)

    def _read(self, image: int, least: DecodeLimit, broken: dict[int, str]) -> Decoded | None:
        """The image; None where it is broken, which is noted."""
        if image in broken:
            return None
        try:
            return self.images.decode(image, least)
        except DataError as error:
            broken[image] = str(error)
            return None

    def _stand_in(self, task: _Task, place: int, broken: dict[int, str]) -> tuple[int | None, Decoded | None]:
        """The next readable image behind a place, and its position; None where nothing readable follows."""
        for candidate in range(place + 1, len(task.index)):
            if (decoded := self._read(int(task.index[candidate]), in_full, broken)) is not None:
                return candidate, decoded
        return None, None


class Loader:
    """Batches of crops, epoch after epoch.

    Args:
        images: where they come from.
        crops: what is made of them.
        batch: images in a step over all ranks; the ranks must divide it.
        seed: of the run.
        device: where the crops are varied and the network trains.
        workers: processes that decode and cut; 0 does it here.
        threads: of this process that share what it does between the steps, where the network trains on a CPU.
        max_broken_share: of the images, before `DataError` stops the run.
    """

    def __init__(
        self,
        images: Images,
        crops: MultiCrop,
        *,
        batch: int,
        seed: int,
        device: torch.device,
        workers: int = 0,
        threads: int = 1,
        max_broken_share: float = 0.1,
    ) -> None:
        self.images, self.crops, self.batch, self.seed, self.device = images, crops, batch, seed, device
        self.max_broken_share, self.workers, self.threads = max_broken_share, workers, threads
        self.broken: dict[int, str] = {}
        """Index and reason of each image found unreadable; part of every checkpoint."""
        self.wait_seconds = 0.0
        """Time that the training step has waited for this loader; whoever reads it resets it."""
        self._each = in_threads(threads) if device.type == "cpu" else map
        self._beside = torch.cuda.Stream(device) if device.type == "cuda" else None
        """Where crops are varied while the network trains on those before."""
        self._tasks = _Tasks()
        self._loader: DataLoader = DataLoader(
            _CutCrops(images, crops, seed, map if workers else self._each),
            sampler=self._tasks,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            collate_fn=_as_is,
        )

    def n_steps(self, plan: EpochPlan) -> int:
        """Steps in an epoch; the last partial batch is dropped."""
        return len(plan.order) // self.batch

    def epoch(self, epoch: int, plan: EpochPlan, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on.

        Raises:
            DataError: too many images cannot be read.
        """
        self._tasks.next_up = (self._task(epoch, plan, step) for step in range(start, self.n_steps(plan)))
        cut_batches = iter(self._loader)
        try:
            while True:
                asked = time.perf_counter()
                cut = next(cut_batches, None)
                if cut is None:
                    return
                self.note_broken(cut.broken)
                if cut.failure:
                    raise DataError(cut.failure)
                with contextlib.nullcontext() if self._beside is None else torch.cuda.stream(self._beside):
                    batch = self._finish(cut)
                self._hand_over(batch)
                self.wait_seconds += time.perf_counter() - asked
                yield batch
        except BaseException:  # also where the epoch is left in the middle
            self.close()
            raise

    def close(self) -> None:
        """The workers are gone; another epoch would start new ones."""
        # Where Python's garbage collector finds them first, torch waits 5 s for each worker, in whatever the process then does.
        if (workers := getattr(self._loader._iterator, "_shutdown_workers", None)) is not None:
            workers()
        self._loader._iterator = None

    def _task(self, epoch: int, plan: EpochPlan, step: int) -> _Task:
        n_local = self.batch // distributed.n_ranks()
        first = step * self.batch + distributed.rank() * n_local
        ahead = 0 if self.images.in_memory else min(_LOOKAHEAD, len(plan.order) - 1)
        positions = np.arange(first, first + n_local + ahead) % len(plan.order)
        index = plan.order[positions]
        known = {image: self.broken[image] for image in self.broken.keys() & set(index.tolist())} if self.broken else {}
        return _Task(epoch, index, plan.occurrence[positions], len(plan.order) + positions, n_local, known)

    def _finish(self, cut: _Cut) -> Batch:
        crops = [crops.to(self.device, non_blocking=True) for crops in cut.crops]
        if self.images.in_memory:
            crops = self.crops.cut(crops[0], cut.drawn)
        return Batch(index=cut.index, crops=self.crops.vary(crops, cut.drawn, self._each))

    def _hand_over(self, batch: Batch) -> None:
        """What follows waits for these crops, and their memory for what follows."""
        if self._beside is not None:
            training = torch.cuda.current_stream(self.device)
            training.wait_stream(self._beside)
            for crops in batch.crops:
                crops.record_stream(training)

    def note_broken(self, broken: dict[int, str]) -> None:
        """These images cannot be read, for these reasons.

        Raises:
            DataError: now they are too many.
        """
        self.broken.update(broken)
        if len(self.broken) > self.max_broken_share * len(self.images):
            index, reason = next(iter(self.broken.items()))
            raise DataError(
                f"{len(self.broken):,} of {len(self.images):,} images cannot be read (first: {self.images.path(index)!r} {reason}), "
                f"more than max_broken_share {self.max_broken_share:g}; mend or remove them, or raise --max-broken-share"
            )


class _Tasks:
    """The sampler: hands out the tasks of whichever epoch is up."""

    next_up: Iterator[_Task]

    def __iter__(self) -> Iterator[_Task]:
        return self.next_up


def _as_is(cut: Any) -> Any:
    return cut
