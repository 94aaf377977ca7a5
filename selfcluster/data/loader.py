"""Batches of crops with the indices of their images.

Each rank takes its slice of every global batch of the epoch's order. Workers decode an image once and cut all its crops; the training device
augments them. An unreadable image is replaced by the next readable one of the order. Whether an image is readable is a property of the data,
so the replacement is the same in every run, with any number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from selfcluster import distributed
from selfcluster.data.crop_parameters import CropParameters
from selfcluster.data.crops import MultiCrop
from selfcluster.data.readers.images import Decoded, Images, MinScale, full_scale
from selfcluster.device import Map, ahead, in_threads
from selfcluster.errors import DataError
from selfcluster.workers import ends_with_parent, signals_held

Report = Callable[[str, int, int, float], None]
"""Called with what is done, how many of how many images are, and images per second; see `Log.working`."""

_LOOKAHEAD = 256
"""Positions after a batch that are searched for a replacement."""


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch."""

    index: Int64[Tensor, " b"]
    """Position of each image in the data set."""
    crops: list[Float[Tensor, "b ..."]]
    """Every crop of every image, large ones first; or what the frozen stages of an encoder make of them."""

    def parts(self, n: int) -> list[Batch]:
        """Split the batch into n equal parts."""
        of_crops = zip(*(crop.chunk(n) for crop in self.crops), strict=True)
        return [Batch(index, list(crops)) for index, crops in zip(self.index.chunk(n), of_crops, strict=True)]


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch trains on, and in which order. The order is part of every checkpoint."""

    order: NDArray[np.int64]
    """Image indices in the order of training; an index may occur several times."""
    reset: tuple[str, ...] = ()
    """Names of reinitialized parameters, whose optimizer state is dropped."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """Metrics of the clustering, by name."""
    notes: tuple[str, ...] = ()
    """Messages for the user."""
    warnings: tuple[str, ...] = ()
    """Collapses found while clustering, if `on_collapse` is warn."""
    occurrence: NDArray[np.int64] = field(init=False)
    """How often the same index came earlier in the order, so that each occurrence gets different crops."""

    def __post_init__(self) -> None:
        n, by_index = len(self.order), np.argsort(self.order, kind="stable")
        is_first = np.ones(n, dtype=bool)
        is_first[1:] = np.diff(self.order[by_index]) != 0
        run_starts = np.maximum.accumulate(np.where(is_first, np.arange(n), 0))
        occurrence = np.empty(n, dtype=np.int64)
        occurrence[by_index] = np.arange(n) - run_starts
        object.__setattr__(self, "occurrence", occurrence)


@dataclass(frozen=True)
class _Task:
    """One rank's part of one step: its positions in the order, and the following ones that replacements come from."""

    epoch: int
    index: NDArray[np.int64]
    """Image at each position of this part, then at the following ones."""
    occurrence: NDArray[np.int64]
    replacement_occurrence: NDArray[np.int64]
    """Occurrence of a replacement at each position: above every ordinary one, so that its crops differ."""
    n: int
    known_broken: dict[int, str]


@dataclass(frozen=True)
class _Cut:
    """The result of a task in a worker."""

    index: Tensor
    drawn: CropParameters
    crops: list[Tensor]
    """Cut crops; for images in memory, which are cut on the training device, their pixels."""
    broken: dict[int, str]
    """Reason of each image newly found unreadable."""
    failure: str = ""
    """Why there are no crops; not raised, since the DataLoader would add the worker's stack trace to the one line."""

    def pin_memory(self) -> _Cut:
        """Pin the crops; called by the DataLoader, which would not find them otherwise."""
        return replace(self, crops=[crops.pin_memory() for crops in self.crops])


class _CutCrops(Dataset):
    """From tasks to decoded, cut crops; runs in the workers."""

    def __init__(self, images: Images, crops: MultiCrop, seed: int, each: Map) -> None:
        self.images, self.crops, self.seed, self.each = images, crops, seed, each

    def __getitem__(self, task: _Task) -> _Cut:
        index, occurrence = task.index[: task.n].copy(), task.occurrence[: task.n].copy()
        drawn = self._draw(task, index, occurrence)
        if self.images.in_memory:
            return _Cut(torch.from_numpy(index), drawn, [self.images.take(index)], {})
        broken = dict(task.known_broken)
        decoded = list(self.each(lambda place: self._read(int(index[place]), self.crops.min_scale(drawn, place), broken), range(task.n)))
        failure = ""
        for place in [place for place in range(task.n) if decoded[place] is None]:
            for following in task.index[place + 1 :].tolist():
                if (image := self._read(following, full_scale, broken)) is not None:
                    decoded[place], index[place], occurrence[place] = image, following, task.replacement_occurrence[place]
                    break
            else:
                first = int(task.index[place])
                n, reason = len(np.unique(task.index[place:])), broken[first]
                failure = f"{n:,} images in a row cannot be read (first: {self.images.path(first)!r} {reason}); check the data"
                break
            drawn = self._draw(task, index, occurrence)
        new = {image: reason for image, reason in broken.items() if image not in task.known_broken}
        whole = [image for image in decoded if image is not None]
        cut = [] if failure else self.crops.cut(whole, drawn, self.each)
        return _Cut(torch.from_numpy(index), drawn, cut, new, failure)

    def _draw(self, task: _Task, index: NDArray[np.int64], occurrence: NDArray[np.int64]) -> CropParameters:
        return self.crops.draw(index, seed=self.seed, epoch=task.epoch, occurrence=occurrence)

    def _read(self, image: int, min_scale: MinScale, broken: dict[int, str]) -> Decoded | None:
        """Decode an image; return None and note the reason if it is broken."""
        if image in broken:
            return None
        try:
            return self.images.decode(image, min_scale)
        except DataError as error:
            broken[image] = str(error)
            return None


class Loader:
    """Batches of crops, epoch after epoch.

    Args:
        images: source of the images.
        crops: the crops of each image.
        batch: images in a step over all ranks; must be a multiple of the number of ranks.
        seed: seed of the run.
        device: device that augments the crops and trains.
        workers: processes that decode and cut; 0 decodes in this process.
        threads: threads of this process that decode, cut and augment if the network trains on a CPU.
        max_broken_share: share of unreadable images above which `DataError` stops the run.
        repeat_after: epochs after which the same crops of an image come again; 0 for never.
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
        repeat_after: int = 0,
    ) -> None:
        self.images, self.crops, self.batch, self.seed, self.device = images, crops, batch, seed, device
        self.max_broken_share, self.workers, self.threads = max_broken_share, workers, threads
        self.repeat_after = repeat_after
        self.broken: dict[int, str] = {}
        """Reason of each unreadable image, by index; part of every checkpoint."""
        self.wait_seconds = 0.0
        """Time that training has waited for batches; reset by the reader."""
        self.report: Report = lambda *_: None
        """Called between batches of work that is done before an epoch."""
        self._each = in_threads(threads) if device.type == "cpu" else map
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        """Stream that augments crops, ahead of the network and beside it."""
        self._tasks = _Tasks()
        self._loader: DataLoader = DataLoader(
            _CutCrops(images, crops, seed, map if workers else self._each),
            sampler=self._tasks,
            batch_size=None,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=ends_with_parent(),
            pin_memory=device.type == "cuda",
        )

    def n_steps(self, plan: EpochPlan) -> int:
        """Return the number of steps in an epoch; the last partial batch is dropped."""
        return len(plan.order) // self.batch

    def sampled(self, plan: EpochPlan) -> tuple[Iterator[Batch], float]:
        """Return batches to measure steps on, and the seconds of work on all images that an epoch would begin with."""
        return self.epoch(0, plan), 0.0

    def epoch(self, epoch: int, plan: EpochPlan, *, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from step `start` on.

        Raises:
            DataError: too many images cannot be read.
        """
        self._tasks.next_up = (self._task(epoch, plan, step) for step in range(start, self.n_steps(plan)))
        with signals_held():
            made = self._made(iter(self._loader))  # workers are forked here; from another thread they would end with an error
        if self._stream is not None:
            made = ahead(made)
        try:
            while True:
                asked = time.perf_counter()
                if (following := next(made, None)) is None:
                    return
                cut, batch, event = following
                self.note_broken(cut.broken)
                if cut.failure:
                    raise DataError(cut.failure)
                if event is not None:
                    # Training must wait for these crops, and their memory must not be reused before training is done with them.
                    training = torch.cuda.current_stream(self.device)
                    training.wait_event(event)
                    for crops in batch.crops:
                        crops.record_stream(training)
                self.wait_seconds += time.perf_counter() - asked
                yield batch
        except BaseException:  # includes an epoch that is left in the middle
            made.close()
            self.close()
            raise

    def _made(self, cut_batches: Iterator[_Cut]) -> Generator[tuple[_Cut, Batch, torch.cuda.Event | None], None, None]:
        """Yield what the workers have cut, as batches; on a GPU with the event after which a batch is complete."""
        for cut in cut_batches:
            if cut.failure:
                yield cut, Batch(cut.index, []), None
            elif self._stream is None:
                yield cut, self._augment(cut), None
            else:
                with torch.cuda.stream(self._stream):
                    batch = self._augment(cut)
                yield cut, batch, self._stream.record_event()

    def close(self) -> None:
        """Stop the workers; another epoch would start new ones."""
        # If Python's garbage collector stops them instead, torch waits 5 s for each worker, whatever the process is doing then.
        iterator: Any = self._loader._iterator
        if (shut_down := getattr(iterator, "_shutdown_workers", None)) is not None:
            shut_down()
            for worker in iterator._workers:  # one that hangs: it does not hear torch's SIGTERM
                if worker.is_alive():
                    worker.kill()
        self._loader._iterator = None

    def _task(self, epoch: int, plan: EpochPlan, step: int) -> _Task:
        n_local = self.batch // distributed.n_ranks()
        first = step * self.batch + distributed.rank() * n_local
        n_following = 0 if self.images.in_memory else min(_LOOKAHEAD, len(plan.order) - 1)
        positions = np.arange(first, first + n_local + n_following) % len(plan.order)
        index = plan.order[positions]
        broken = dict(self.broken)  # tasks are made ahead, in a thread
        known = {image: broken[image] for image in broken.keys() & set(index.tolist())}
        occurrence, replacement_occurrence = plan.occurrence[positions], len(plan.order) + positions
        if self.repeat_after:
            occurrence, replacement_occurrence, epoch = self.view(epoch, occurrence), self.view(epoch, replacement_occurrence), 0
        return _Task(epoch, index, occurrence, replacement_occurrence, n_local, known)

    def view(self, epoch: int, occurrence: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the repeated set of crops that an occurrence of an image gets."""
        return (epoch + occurrence) % self.repeat_after

    def _augment(self, cut: _Cut) -> Batch:
        crops = [crops.to(self.device, non_blocking=True) for crops in cut.crops]
        if self.images.in_memory:
            crops = self.crops.cut(crops[0], cut.drawn)
        return Batch(index=cut.index, crops=self.crops.vary(crops, cut.drawn, self._each))

    def note_broken(self, broken: dict[int, str]) -> None:
        """Add unreadable images, with their reasons.

        Raises:
            DataError: too many images cannot be read.
        """
        self.broken.update(broken)
        if len(self.broken) > self.max_broken_share * len(self.images):
            index, reason = next(iter(self.broken.items()))
            raise DataError(
                f"{len(self.broken):,} of {len(self.images):,} images cannot be read (first: {self.images.path(index)!r} {reason}), "
                f"more than max_broken_share {self.max_broken_share:g}; fix or remove them, or raise --max-broken-share"
            )


class _Tasks:
    """A sampler of the tasks of the current epoch."""

    next_up: Iterator[_Task]

    def __iter__(self) -> Iterator[_Task]:
        return self.next_up
