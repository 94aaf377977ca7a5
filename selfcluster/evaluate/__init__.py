"""Evaluation by one protocol: nearest neighbours and clusters, always beside their floors.

Features are taken in eval mode after a plain resize and brought to unit norm, not centred. Every table has two floors, prepared
the same way: the raw pixels, and the encoder as it was before training.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import distributed, training
from selfcluster.checkpoint import write_atomically
from selfcluster.config import DataSettings
from selfcluster.data import Data, open_data, split
from selfcluster.errors import DataError
from selfcluster.evaluate import clusters, knn
from selfcluster.features import extract_features, raw_pixels
from selfcluster.folder import check_same_data
from selfcluster.images import Images, Labels
from selfcluster.initial import load_initial_weights
from selfcluster.log import table
from selfcluster.model import ClusterModel
from selfcluster.run import Run

_PIXELS_OF_FLOOR = 32
"""Raw pixels are compared at this side at most."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of each representation, and what should be said about them."""

    figures: dict[str, dict[str, float]]
    """By representation (raw pixels, untrained encoder, trained encoder), then by metric."""
    notes: tuple[str, ...]

    def __str__(self) -> str:
        metrics = list(next(iter(self.figures.values())))
        names = {
            "eval/knn_top1_k20": "kNN k=20",
            "eval/knn_top1_k200": "kNN k=200",
            "cluster/accuracy": "cluster acc.",
            "cluster/nmi": "NMI",
            "cluster/ami": "AMI",
            "cluster/ari": "ARI",
        }
        rows = [["", *(names.get(metric, metric) for metric in metrics)]]
        rows += [[name, *(_figure(metric, values[metric]) for metric in metrics)] for name, values in self.figures.items()]
        return "\n".join([table(rows, right=range(1, len(metrics) + 1)), *self.notes])


def _figure(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric.startswith("eval/") or metric == "cluster/accuracy" else f"{value:.3f}"


@dataclass(frozen=True)
class _Part:
    """Labelled, readable-or-not images of one side of the evaluation."""

    images: Images
    index: NDArray[np.int64]
    labels: Labels

    @property
    def codes(self) -> NDArray[np.int64]:
        return self.labels.codes[self.index]


def evaluate(run: Run, data: Any = None, *, test: Any = None, test_share: float = 0.2, labels: str = "auto") -> Evaluation:
    """Nearest neighbours and clusters of a run's encoder, beside raw pixels and the untrained encoder.

    Neighbours are looked for among the training images, for each test image. Clusters are k-means with as many clusters as
    classes, the best of 20 starts by inertia, on all images of `data`, or on the test images alone where they were kept out of training.
    The figures are kept in evaluation.json in the run's folder.

    Args:
        run: from `train` or `load`.
        data: labelled images; None for the run's own.
        test: labelled images to test on; None for the data's own test split, or else a share of the data.
        test_share: that share, stratified; the split is the run's where the run held images out.
        labels: auto, none, a CSV file or a .npy file; see DataSettings.
    Raises:
        DataError: there are no labels, or fewer than two classes.
    """
    with distributed.alone():
        train_part, test_part, clustered, notes = _parts(run, data, test, test_share, labels)
        figures = {}
        for name, represent in _representations(run, train_part.images).items():
            figures[name] = _measure(represent, train_part, test_part, clustered, notes)
    evaluation = Evaluation(figures, tuple(dict.fromkeys(notes)))
    write_atomically(run.path / "evaluation.json", json.dumps({"figures": figures, "notes": evaluation.notes}, indent=1).encode())
    return evaluation


def _parts(run: Run, data: Any, test: Any, test_share: float, labels: str) -> tuple[_Part, _Part, _Part, list[str]]:
    settings = DataSettings(labels=labels, max_megapixels=run.config.data.max_megapixels)
    own = data is None
    opened: Data = run.data(labels=labels) if own else open_data(data, settings)
    if own:
        check_same_data(run.path, opened)
    tested = open_data(test, settings).images if test is not None else opened.test
    if opened.images.labels is None:
        raise DataError(
            f"{opened.name} has no labels, and evaluation measures against them; give --labels FILE.csv, or folders that are classes"
        )
    if tested is not None:
        if tested.labels is None:
            raise DataError("the test images have no labels; give folders that are classes")
        known = opened.images.labels
        test_labels = tested.labels.renamed(known.names)
        train_part = _labelled(opened.images, np.arange(len(opened.images)), Labels(known.codes, test_labels.names))
        test_part = _labelled(tested, np.arange(len(tested)), test_labels)
        notes = [
            f"tested on {len(test_part.index):,} images of the test split, neighbours from {len(train_part.index):,}; clusters of the test split"
        ]
        return train_part, test_part, test_part, notes
    held_out = run.config.data.test_share if own else 0.0
    if held_out:
        train_index = run.trained_on()
        test_index = np.setdiff1d(np.arange(len(opened.images)), train_index)
    else:
        train_index, test_index = split(opened.images, test_share, run.config.run.seed)
    train_part, test_part = (_labelled(opened.images, index, opened.images.labels) for index in (train_index, test_index))
    everything = _labelled(opened.images, np.arange(len(opened.images)), opened.images.labels)
    seen = "were kept out of training" if held_out else "were seen in training (without labels)" if own else "are other data than the run's"
    notes = [f"tested on a share of {held_out or test_share:g} ({len(test_part.index):,} images, which {seen})"]
    clustered = test_part if held_out else everything
    notes.append(f"clusters of {'these' if held_out else 'all'} {len(clustered.index):,} images")
    return train_part, test_part, clustered, notes


def _labelled(images: Images, index: NDArray[np.int64], labels: Labels) -> _Part:
    part = _Part(images, index[labels.codes[index] >= 0], labels)
    if len(np.unique(part.codes)) < 2:
        raise DataError("evaluation needs images of two classes or more")
    return part


Represent = Callable[[Images, NDArray[np.int64]], Tensor]


def _representations(run: Run, images: Images) -> dict[str, Represent]:
    precision = training.precision_of(run.config, run.device)
    untrained = training.build_model(run.config)
    load_initial_weights(untrained, run.config.model.init)
    before = "untrained encoder" if run.config.model.init == "random" else "encoder before training"

    def readers(images: Images) -> dict[str, int]:
        return {"workers": training.n_workers(run.config, images, run.device), "threads": training.n_threads(run.config)}

    def by(model: ClusterModel) -> Represent:
        model = model.to(run.device).eval()
        return lambda images, index: extract_features(
            model.encode, images, index=index, pixels=run.pixels, device=run.device, precision=precision, **readers(images)
        )

    pixels = min(_PIXELS_OF_FLOOR, images.decode(0).pixels.shape[1]) if images.in_memory else _PIXELS_OF_FLOOR
    return {
        "raw pixels": lambda images, index: raw_pixels(images, index=index, pixels=pixels, **readers(images)),
        before: by(untrained),
        "trained encoder": by(run.model),
    }


def _measure(represent: Represent, train: _Part, test: _Part, clustered: _Part, notes: list[str]) -> dict[str, float]:
    """The figures of one representation; every image is read once."""
    parts = [train, test] if test.images is not train.images else [_Part(train.images, np.union1d(train.index, test.index), train.labels)]
    features = {part.images: (part.index, represent(part.images, part.index)) for part in parts}

    def rows(part: _Part) -> tuple[Tensor, NDArray[np.int64]]:
        index, of_images = features[part.images]
        return _readable(of_images[np.searchsorted(index, part.index)], part, notes)

    (bank, bank_labels), (queries, query_labels), (points, point_labels) = rows(train), rows(test), rows(clustered)
    for k in (20, 200):
        if (used := knn.usable_k(k, bank_labels)) < k:
            notes.append(f"k = {k} is lowered to {used}, below the smallest class")
    figures = dict(knn.run(bank, bank_labels, queries, query_labels))
    return figures | dict(clusters.run(points, point_labels, seed=0))


def _readable(features: Tensor, part: _Part, notes: list[str]) -> tuple[Tensor, NDArray[np.int64]]:
    readable = ~features.isnan().any(dim=1)
    if not readable.any():
        raise DataError(f"none of {len(readable):,} images can be read (first: {part.images.path(int(part.index[0]))!r})")
    if not readable.all():
        notes.append(f"{int((~readable).sum()):,} images that cannot be read are left out")
    return features[readable], part.codes[readable.numpy()]
