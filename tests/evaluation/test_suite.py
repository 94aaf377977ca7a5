"""Evaluators that use cosines get features centered by one mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import selfcluster as sc
from selfcluster.data.readers.images import Images
from selfcluster.evaluation.protocol import EvaluationData, LabeledSubset, evaluation_data
from selfcluster.evaluation.representations import Pixels
from selfcluster.evaluation.suite import Suite
from tests import tiny


class ShiftedPixels(Pixels):
    """Raw pixels with a constant added to all."""

    def __init__(self, offset: float) -> None:
        super().__init__("shifted pixels", 16, tiny.config(), torch.device("cpu"))
        self.offset = offset

    def of_images(self, images: Images, index: np.ndarray, seen: object) -> torch.Tensor:
        return super().of_images(images, index, seen) + self.offset

    def of_crops(self, crops: torch.Tensor) -> torch.Tensor:
        return super().of_crops(crops) + self.offset


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    return sc.train(tiny.images(8), out=tmp_path_factory.mktemp("suite") / "run", **{**tiny.SETTINGS, "max_steps": 1})


def _data(run: sc.Run, labels: np.ndarray | None) -> EvaluationData:
    arrays = {"images": tiny.images(60, seed=3)} | ({} if labels is None else {"labels": labels})
    np.savez(run.path.parent / "toys.npz", **arrays)
    return evaluation_data(run.opened, run.path.parent / "toys.npz", None, 0.2, "auto")


def _suite(run: sc.Run, data: EvaluationData, offset: float) -> Suite:
    return Suite(ShiftedPixels(offset), data, run.opened, tiny.Silent(), [], 1.0)


@pytest.mark.parametrize("labels", [None, np.arange(60) % 3])
def test_a_constant_added_to_all_features_changes_no_figure_of_cosines(labels: np.ndarray | None, run: sc.Run) -> None:
    data = _data(run, labels)
    evaluators = ["label-free"] if labels is None else ["knn", "retrieval", "clusters", "label-free"]
    plain, shifted = (_suite(run, data, offset).figures(evaluators) for offset in (0.0, 4.0))
    assert shifted.pop("collapse/rankme") < plain.pop("collapse/rankme") - 1, "the effective rank is not centered"
    assert plain.keys() >= {"eval/silhouette", "eval/view_top1", "eval/neighbor_overlap"}
    assert shifted == pytest.approx(plain, abs=1e-4)


def test_the_mean_is_that_of_the_training_images_or_of_all_without_labels(run: sc.Run) -> None:
    for labels in (None, np.arange(60) % 3):
        data = _data(run, labels)
        suite = _suite(run, data, 0.0)
        index = data.points.index if data.split is None else data.split.train.index
        rows = suite.representation.of_images(data.points.images, index, lambda n: None)
        assert len(index) == (60 if labels is None else 48)
        assert torch.allclose(suite.mean, rows.mean(dim=0))
    assert isinstance(data.points, LabeledSubset)
    assert torch.allclose(suite._centered_rows(data.split.train)[0].mean(dim=0), torch.zeros(()), atol=1e-6)
