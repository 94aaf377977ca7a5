"""All evaluators on one representation: its features are computed once, and each evaluator gets the rows it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import randomness
from selfcluster.data.readers.images import Images
from selfcluster.errors import DataError
from selfcluster.evaluation import clusters, finetune, knn, label_free, linear, retrieval
from selfcluster.evaluation.protocol import EvaluationData, LabeledSubset, Split, Subset
from selfcluster.evaluation.representations import Network, Representation
from selfcluster.formatting import duration, n_images
from selfcluster.runs.log import Log
from selfcluster.runs.run import OpenRun

_N_LABEL_FREE = 2048
"""Images for the metrics without labels, as many as for the effective rank in training."""
_N_CLUSTERS = 20
"""Clusters for the silhouette if the number of classes is unknown."""
_MIN_AREA = 0.3
"""Smallest share of an image that a crop shows in fine-tuning, so that what defines the class is in it."""
_LABEL_FREE = 0x1AB
"""Key of the random draws."""

Measurements = Iterable[tuple[str, float]]
"""Metric names and values, as an evaluator yields them."""


class Suite:
    """The evaluators, on one representation's features of the images at hand.

    Args:
        representation: the representation to evaluate.
        data: the images.
        run: the evaluated run.
        log: where progress is reported.
        notes: list that remarks on the measurements are added to.
        minutes: time limit of one fine-tuning.
    Attributes:
        mean: that features are centered by before cosines are computed: of the training images, or without labels of all evaluated ones.
    Raises:
        DataError: no image can be read.
    """

    def __init__(
        self, representation: Representation, data: EvaluationData, run: OpenRun, log: Log, notes: list[str], minutes: float
    ) -> None:
        self.representation, self.data, self.run, self.log, self.notes, self.minutes = representation, data, run, log, notes, minutes
        subsets = [data.points, *([data.split.train, data.split.test] if data.split is not None else [])]
        self._features: dict[Images, tuple[Tensor, NDArray[np.int64]]] = {}
        """By collection: features of the readable images, and their indices."""
        for images in dict.fromkeys(subset.images for subset in subsets):
            index = np.unique(np.concatenate([subset.index for subset in subsets if subset.images is images]))
            self._features[images] = self._read(images, index)
        self.mean = self._rows(data.split.train if data.split is not None else data.points)[0].mean(dim=0)

    def figures(self, evaluators: Iterable[str]) -> dict[str, float]:
        """Run these evaluators and return the values by metric."""
        measures: dict[str, Callable[[], Measurements]] = {"label-free": self._label_free}
        if split := self.data.split:
            against_labels = {
                "knn": self._knn,
                "linear": self._linear,
                "retrieval": self._retrieval,
                "clusters": self._clusters,
                "finetune": self._finetune,
            }
            measures |= {name: partial(measure, split) for name, measure in against_labels.items()}
        found: dict[str, float] = {}
        for evaluator in evaluators:
            started = time.perf_counter()
            found.update(measures[evaluator]())
            self.log.say(f"{self.representation.name}: {evaluator} in {duration(time.perf_counter() - started)}")
        return found

    def _read(self, images: Images, index: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        name, started = self.representation.name, time.perf_counter()
        rows = self.representation.of_images(
            images, index, lambda n: self.log.working(f"{name}: reading", n, len(index), n / (time.perf_counter() - started))
        )
        self.log.say(f"{name}: {n_images(len(index))} in {duration(time.perf_counter() - started)}")
        readable = ~rows.isnan().any(dim=1)
        if not readable.any():
            raise DataError(f"none of {len(readable):,} images can be read (first: {images.path(int(index[0]))!r})")
        if readable.all():
            return rows, index
        self.notes.append(f"{int((~readable).sum()):,} unreadable images are left out")
        return rows[readable], index[readable.numpy()]

    def _rows(self, subset: Subset) -> tuple[Tensor, NDArray[np.int64]]:
        """Return features and indices of the readable images of a subset."""
        features, index = self._features[subset.images]
        kept = np.isin(index, subset.index, assume_unique=True)
        return (features, index) if kept.all() else (features[torch.from_numpy(kept)], index[kept])

    def _labeled_rows(self, subset: LabeledSubset) -> tuple[Tensor, LabeledSubset]:
        """Return features of the readable images of a subset, and the subset of these."""
        features, index = self._rows(subset)
        return features, LabeledSubset(subset.images, index, subset.codes[np.isin(subset.index, index, assume_unique=True)])

    def _centered_rows(self, subset: LabeledSubset) -> tuple[Tensor, LabeledSubset]:
        """Return what `_labeled_rows` returns, with features centered, for evaluators that compare by cosine."""
        features, readable = self._labeled_rows(subset)
        return features - self.mean, readable

    def _label_free(self) -> Measurements:
        points, representation = self.data.points, self.representation
        features, index = self._rows(points)
        chosen = np.sort(randomness.permutation(len(index), self.run.config.run.seed, _LABEL_FREE)[:_N_LABEL_FREE])
        k = len(np.unique(points.codes[np.isin(points.index, index)])) if isinstance(points, LabeledSubset) else _N_CLUSTERS
        self.notes.append(
            f"without labels: {len(chosen):,} images, silhouette of {k} clusters, overlap of {label_free.N_NEIGHBORS} neighbors between "
            f"two crops; prototypes of {len(index):,} images"
        )
        sample, (first, second) = features[torch.from_numpy(chosen)], representation.of_views(points.images, index[chosen])
        yield from label_free.measure(sample, sample - self.mean, (first - self.mean, second - self.mean), k=k)
        if isinstance(representation, Network) and (nearest := representation.prototypes_of(features)) is not None:
            yield from label_free.prototype_use(*nearest)

    def _knn(self, split: Split) -> Measurements:
        train_rows, train = self._centered_rows(split.train)
        test_rows, test = self._centered_rows(split.test)
        return knn.measure(train_rows, train.codes, test_rows, test.codes, device=self.run.device)

    def _linear(self, split: Split) -> Measurements:
        train_rows, train = self._labeled_rows(split.train)
        test_rows, test = self._labeled_rows(split.test)
        return linear.measure(train_rows, train.codes, test_rows, test.codes, device=self.run.device)

    def _retrieval(self, split: Split) -> Measurements:
        rows, test = self._centered_rows(split.test)
        queries = retrieval.queries_of(test.codes)
        sample = f", with {len(queries):,} queries" if len(queries) < len(test.codes) else ""
        self.notes.append(f"retrieval among the {len(test.codes):,} test images{sample}")
        return retrieval.measure(rows, test.codes, queries=queries, device=self.run.device)

    def _clusters(self, split: Split) -> Measurements:
        rows, clustered = self._centered_rows(split.clustered)
        return clusters.measure(rows, clustered.codes, device=self.run.device)

    def _finetune(self, split: Split) -> Measurements:
        network = self.representation
        if not isinstance(network, Network):
            return
        train, test = (self._labeled_rows(subset)[1] for subset in (split.train, split.test))
        low, high = self.run.config.crops.area[0]
        recipe = finetune.Recipe(
            pixels=network.pixels,
            interpolation=network.interpolation,
            area=(max(low, min(high, _MIN_AREA)), high),
            augment=self.run.config.augment,
            device=network.device,
            precision=network.precision,
            minutes=self.minutes,
            **network.readers(train.images),
        )
        for outcome in finetune.measure(network.network, train, test, recipe):
            yield from outcome.measurements()
            if outcome.n_steps < outcome.n_planned:
                self.notes.append(
                    f"{network.name}: fine-tuning with {outcome.percent} % of the labels had time for {outcome.n_steps:,} of "
                    f"{outcome.n_planned:,} steps; allow more with --finetune-minutes"
                )
