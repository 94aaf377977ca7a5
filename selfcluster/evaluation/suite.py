"""One representation under all evaluators: its features are made once, and each evaluator gets the rows that it wants."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import randomness
from selfcluster.data.readers.images import Images
from selfcluster.errors import DataError
from selfcluster.evaluation import clusters, finetune, knn, label_free, linear, retrieval
from selfcluster.evaluation.protocol import Part, Parts
from selfcluster.evaluation.representations import Network, Representation
from selfcluster.formatting import duration
from selfcluster.runs.log import Log
from selfcluster.runs.run import OpenRun

_N_LABEL_FREE = 2048
"""Images of the figures without labels; training's effective rank is of as many."""
_CLUSTERS = 20
"""Of the silhouette, where the number of classes is not known."""
_LEAST_AREA = 0.3
"""Of an image, that a crop shows in fine-tuning at least: what a class is told by must be in it."""
_LABEL_FREE = 0x1AB
"""Keeps the draw of images apart from every other use of the seed."""

Figures = Iterable[tuple[str, float]]


class Measurement:
    """A representation's features of the images at hand, and what the evaluators say of them.

    Args:
        representation: what is measured.
        parts: the images.
        run: that it all belongs to.
        log: hears of progress.
        notes: gets what should be said beside the figures.
        minutes: limit of one fine-tuning.
    Raises:
        DataError: no image can be read.
    """

    def __init__(self, representation: Representation, parts: Parts, run: OpenRun, log: Log, notes: list[str], minutes: float) -> None:
        self.representation, self.parts, self.run, self.log, self.notes, self.minutes = representation, parts, run, log, notes, minutes
        sides, points = parts.sides, parts.points
        wanted = [points] if sides is None else [sides.train, sides.test, points]
        self._features: dict[Images, tuple[Tensor, NDArray[np.int64]]] = {}
        """Of each collection: features of the readable images, and their places in it."""
        for images in dict.fromkeys(part.images for part in wanted):
            index = np.unique(np.concatenate([part.index for part in wanted if part.images is images]))
            self._features[images] = self._read(images, index)

    def figures(self, evaluators: Iterable[str]) -> dict[str, float]:
        """The figures of these evaluators."""
        how: dict[str, Callable[[], Figures]] = {
            "knn": self._knn,
            "linear": self._linear,
            "retrieval": self._retrieval,
            "clusters": self._clusters,
            "label-free": self._label_free,
            "finetune": self._finetune,
        }
        found: dict[str, float] = {}
        for evaluator in evaluators:
            started = time.perf_counter()
            found.update(how[evaluator]())
            self.log.say(f"{self.representation.name}: {evaluator} in {duration(time.perf_counter() - started)}")
        return found

    # ----------------------------------------------------------------------------------------------------- features

    def _read(self, images: Images, index: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        name, started = self.representation.name, time.perf_counter()
        rows = self.representation.of_images(
            images, index, lambda n: self.log.working(f"{name}: reading", n, len(index), n / (time.perf_counter() - started))
        )
        self.log.say(f"{name}: {len(index):,} images in {duration(time.perf_counter() - started)}")
        readable = ~rows.isnan().any(dim=1)
        if not readable.any():
            raise DataError(f"none of {len(readable):,} images can be read (first: {images.path(int(index[0]))!r})")
        if readable.all():
            return rows, index
        self.notes.append(f"{int((~readable).sum()):,} images that cannot be read are left out")
        return rows[readable], index[readable.numpy()]

    def _rows(self, part: Part) -> tuple[Tensor, NDArray[np.int64]]:
        """Features and places of the readable images of a part."""
        features, index = self._features[part.images]
        mine = np.isin(index, part.index, assume_unique=True)
        return (features, index) if mine.all() else (features[torch.from_numpy(mine)], index[mine])

    def _labeled(self, part: Part) -> tuple[Tensor, NDArray[np.int64]]:
        features, index = self._rows(part)
        return features, part.codes_of(index)

    @cached_property
    def _sides(self) -> tuple[Tensor, NDArray[np.int64], Tensor, NDArray[np.int64]]:
        """Features and classes of the training side, then of the test side."""
        assert self.parts.sides is not None
        return *self._labeled(self.parts.sides.train), *self._labeled(self.parts.sides.test)

    # --------------------------------------------------------------------------------------------------- evaluators

    def _knn(self) -> Figures:
        train, train_labels, test, test_labels = self._sides
        for k in (20, 200):
            if (used := knn.usable_k(k, train_labels)) < k:
                self.notes.append(f"k = {k} is lowered to {used}, below the smallest class")
        return knn.run(train, train_labels, test, test_labels, device=self.run.device)

    def _linear(self) -> Figures:
        return linear.run(*self._sides, device=self.run.device)

    def _retrieval(self) -> Figures:
        _, _, test, labels = self._sides
        queries = retrieval.queries_of(labels)
        few = f", asked by {len(queries):,}" if len(queries) < len(labels) else ""
        self.notes.append(f"retrieval among the {len(labels):,} test images{few}")
        return retrieval.run(test, labels, queries=queries, device=self.run.device)

    def _clusters(self) -> Figures:
        return clusters.run(*self._labeled(self.parts.points), device=self.run.device)

    def _label_free(self) -> Iterator[tuple[str, float]]:
        points, representation = self.parts.points, self.representation
        features, index = self._rows(points)
        chosen = np.sort(randomness.permutation(len(index), self.run.config.run.seed, _LABEL_FREE)[:_N_LABEL_FREE])
        k = _CLUSTERS if points.labels is None else len(np.unique(points.codes_of(index)))
        self.notes.append(
            f"without labels: {len(chosen):,} images, silhouette of {k} clusters, overlap of {label_free.N_NEIGHBORS} neighbors between "
            f"two crops; prototypes of {len(index):,} images"
        )
        yield from label_free.run(features[torch.from_numpy(chosen)], representation.of_views(points.images, index[chosen]), k=k)
        if isinstance(representation, Network) and (nearest := representation.prototypes_of(features)) is not None:
            yield from label_free.prototype_use(*nearest)

    def _finetune(self) -> Iterator[tuple[str, float]]:
        network, sides = self.representation, self.parts.sides
        assert sides is not None
        if not isinstance(network, Network):
            return
        train, test = (self._to_learn(part) for part in (sides.train, sides.test))
        low, high = self.run.config.crops.area[0]
        recipe = finetune.Recipe(
            pixels=network.pixels,
            area=(max(low, min(high, _LEAST_AREA)), high),
            augment=self.run.config.augment,
            device=network.device,
            precision=network.precision,
            minutes=self.minutes,
            **network.readers(train.images),
        )
        for name, value in finetune.run(network.network, network.n_features, train, test, recipe):
            yield name, value
            if name.endswith("_steps"):
                self._say_if_cut(int(name.split("_")[1]), int(value), train)

    def _to_learn(self, part: Part) -> finetune.Labeled:
        _, index = self._rows(part)
        return finetune.Labeled(part.images, index, part.codes_of(index))

    def _say_if_cut(self, percent: int, steps: int, train: finetune.Labeled) -> None:
        full = finetune.n_steps_of(finetune.n_labeled(train.codes, percent))
        if steps < full:
            self.notes.append(
                f"{self.representation.name}: fine-tuning with {percent} % had time for {steps:,} of {full:,} steps; --finetune-minutes gives more"
            )
