"""Evaluation by one protocol: features against labels, clusters against labels, and metrics without labels.

Features are computed in eval mode after a plain resize, once per representation, and shared by all evaluators; for cosines they are
centered by the mean of the training images and scaled to unit length. Every table has its baselines, processed in the same way: the raw
pixels, patches, the pretrained encoder that comes with the install, and the encoder before training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfcluster import distributed
from selfcluster.errors import ConfigError, DataError, known
from selfcluster.evaluation.protocol import evaluation_data
from selfcluster.evaluation.representations import representations
from selfcluster.evaluation.results import Evaluation, file_for
from selfcluster.evaluation.suite import Suite
from selfcluster.runs.log import Log
from selfcluster.runs.run import OpenRun
from selfcluster.settings.commands import EVALUATORS

__all__ = ["Evaluation", "evaluate"]


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
    baselines: bool = True,
) -> Evaluation:
    """Compare a run's encoder with raw pixels, a pretrained encoder, the untrained encoder, and others.

    With labels: nearest neighbors and a linear probe from training images to test images, retrieval among the test images, and k-means
    with as many clusters as classes, on the test images if they were held out of training, otherwise on all of `data`. With or without
    labels: rank, silhouette, agreement of views, use of the prototypes. The results are saved in the run's folder: in evaluation.json
    for the run's own data, in evaluation-<name>.json for other data.

    Args:
        run: from `train` or `load`.
        data: images, labeled or not; None for the run's own.
        test: labeled images to test on; None for the data's own test split, or else a share of the data.
        test_share: that share, stratified, in (0, 1); ignored if the run held images out.
        labels: auto, none, a CSV file or a .npy file; see DataSettings.
        only: some of "knn", "linear", "retrieval", "clusters", "label-free", "finetune"; empty for all but the last.
        finetune: also fine-tune on 1 % and 10 % of the labels, three times each.
        finetune_minutes: time limit of each of these trainings, above 0.
        beside: names of timm networks, or folders of other runs, to evaluate in the same way.
        beside_untrained: whether those of timm keep random weights; otherwise they are pretrained.
        baselines: measure them too; the pretrained encoder alone takes ten minutes for 60,000 images on two cores.
    Raises:
        ConfigError: a name is unknown, or weights are not available.
        DataError: images cannot be used, or everything that was asked for needs labels and there are none.
    """
    if not finetune_minutes > 0:
        raise ConfigError(f"finetune_minutes {finetune_minutes:g} must be above 0, such as 1")
    for name in only:
        known(name, EVALUATORS, "evaluator")
    asked = {*only, *(["finetune"] if finetune else [])}
    evaluators = [name for name in EVALUATORS if name in asked or (not only and name != "finetune")]
    with distributed.alone():
        opened = evaluation_data(run, data, test, test_share, labels)
        if opened.split is None:
            if asked and "label-free" not in asked:
                raise DataError(
                    f"cannot evaluate {', '.join(name for name in EVALUATORS if name in asked)}: {opened.why_unlabeled} in {opened.name}; "
                    "give --labels FILE.csv, one folder per class, or --only label-free"
                )
            evaluators = ["label-free"]
        notes = [*opened.notes]
        if not opened.is_own:
            notes.insert(0, f"transfer: the encoder was trained on {run.images or 'an array'}, and evaluated on {opened.identity['data']}")
        log, figures = Log(None, run.config.run), {}
        fitted_to = opened.split.train if opened.split is not None else opened.points
        compared = representations(
            run, opened.points.images, tuple(beside), fitted_to=fitted_to, untrained=beside_untrained, baselines=baselines
        )
        for representation in compared:
            suite = Suite(representation, opened, run, log, notes, finetune_minutes)
            figures[representation.name] = suite.figures(evaluators)
    identity = {**opened.identity, "step": run.step, "cosines": "centered"}  # figures of versions that did not center are not merged
    file = file_for(run.path, opened.name, identity, is_own=opened.is_own)
    notes.append(
        f"cosines are of features centered by their mean over the {'training' if opened.split is not None else 'evaluated'} images"
    )
    notes.append("± is one standard error over the evaluated images; it does not cover other training seeds")
    return Evaluation(figures, tuple(dict.fromkeys(notes)), file, identity).save()
