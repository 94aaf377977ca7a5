"""Evaluation by one protocol: what the features know of the classes, how they cluster, and whether they are alive without labels.

Features are taken in eval mode after a plain resize; where cosines count they are brought to unit norm, not centered. They are made
once for each representation and shared by all evaluators. Every table has two floors, prepared the same way: the raw pixels, and
the encoder as it was before training. Standard errors are by bootstrap over the images that are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfcluster import distributed
from selfcluster.errors import ConfigError, DataError, known
from selfcluster.evaluation.protocol import Parts, parts_of
from selfcluster.evaluation.representations import representations
from selfcluster.evaluation.results import Evaluation, file_for
from selfcluster.evaluation.suite import Measurement
from selfcluster.runs.log import Log
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import EVALUATORS

__all__ = ["Evaluation", "evaluate"]

_NEEDS_LABELS = ("knn", "linear", "retrieval", "clusters", "finetune")


def evaluate(
    run: OpenRun,
    data: Any = None,
    *,
    test: Any = None,
    test_share: float = 0.2,
    labels: str = "auto",
    only: Sequence[str] = (),
    finetune: bool = False,
    finetune_minutes: float = 1.0,
    beside: Sequence[str] = (),
    beside_untrained: bool = False,
) -> Evaluation:
    """What a run's encoder is worth, beside raw pixels, the untrained encoder, and others.

    With labels: neighbors and a linear probe from the training images for each test image; retrieval among the test images;
    k-means with as many clusters as classes, the best of 20 starts by inertia, on all images of `data`, or on the test images alone
    where they were kept out of training. With labels or without: rank, silhouette, agreement of views, use of the prototypes.
    The figures are kept in the run's folder: in evaluation.json for the run's own data, in evaluation-<name>.json for others.

    Args:
        run: from `train` or `load`.
        data: images, labeled or not; None for the run's own.
        test: labeled images to test on; None for the data's own test split, or else a share of the data.
        test_share: that share, stratified, in (0, 1); the split is the run's where the run held images out.
        labels: auto, none, a CSV file or a .npy file; see DataSettings.
        only: of "knn", "linear", "retrieval", "clusters", "label-free", "finetune"; empty for all but the last.
        finetune: also fine-tune on 1 % and 10 % of the labels, three times each.
        finetune_minutes: limit of one of these trainings, above 0.
        beside: names of timm networks, or folders of other runs, to measure in the same way.
        beside_untrained: those of timm keep their random weights; otherwise they are pretrained.
    Raises:
        ConfigError: a name that is unknown, or weights that are not to be had.
        DataError: images that cannot be used, or no labels where what was asked for needs them.
    """
    wanted = _wanted(only, finetune, finetune_minutes)
    with distributed.alone():
        parts = parts_of(run, data, test, test_share, labels)
        if parts.sides is None:
            asked = {*only, *(("finetune",) if finetune else ())}
            if asked and asked <= set(_NEEDS_LABELS):
                raise DataError(
                    f"{parts.notes[0].split(':')[0]} in {parts.name}, and {', '.join(wanted)} measure against them; "
                    "give --labels FILE.csv, folders that are classes, or --only label-free"
                )
            wanted = tuple(name for name in wanted if name not in _NEEDS_LABELS)
        notes = [*_of_transfer(run, parts), *parts.notes]
        log, minutes = Log(None, run.config.run), finetune_minutes
        figures = {}
        for representation in representations(run, parts.points.images, tuple(beside), untrained=beside_untrained):
            measured = Measurement(representation, parts, run, log, notes, minutes)
            figures[representation.name] = measured.figures(wanted)
    identity = {**parts.identity, "step": run.step}
    file = file_for(run.path, parts.name, identity, is_own=parts.is_own)
    notes.append("± is one standard error, by bootstrap over the images that are judged; it does not speak of other seeds of training")
    return Evaluation(figures, tuple(dict.fromkeys(notes)), file, identity).keep()


def _wanted(only: Sequence[str], finetune: bool, minutes: float) -> tuple[str, ...]:
    """The evaluators to use, in their order."""
    if not minutes > 0:
        raise ConfigError(f"finetune_minutes {minutes:g} must be above 0, such as 1")
    for name in only:
        known(name, EVALUATORS, "evaluator")
    chosen = set(only) or set(EVALUATORS) - {"finetune"}
    return tuple(name for name in EVALUATORS if name in chosen or (finetune and name == "finetune"))


def _of_transfer(run: OpenRun, parts: Parts) -> list[str]:
    if parts.is_own:
        return []
    return [f"transfer: the encoder was trained on {run.images or 'an array'}, the figures are of {parts.identity['data']}"]
