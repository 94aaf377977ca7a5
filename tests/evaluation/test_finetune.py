from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from selfcluster.data.readers.images import ArrayImages
from selfcluster.evaluation import finetune
from selfcluster.evaluation.protocol import LabeledSubset
from selfcluster.models.model import ClusterModel
from selfcluster.settings.config import AugmentSettings
from tests import tiny


def _colors(n: int, seed: int) -> tuple[ArrayImages, np.ndarray]:
    """Images of three classes that are distinguished by color, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = (120 * np.eye(3)[labels][:, None, None] + rng.integers(0, 130, (n, 16, 16, 3))).astype(np.uint8)
    return ArrayImages(images), labels.astype(np.int64)


def _recipe(minutes: float, max_steps: int = finetune.MAX_STEPS) -> finetune.Recipe:
    return finetune.Recipe(
        pixels=16,
        interpolation="bilinear",
        area=(0.5, 1.0),
        augment=AugmentSettings(),
        device=torch.device("cpu"),
        precision=torch.float32,
        minutes=minutes,
        max_steps=max_steps,
    )


def _sides() -> tuple[LabeledSubset, LabeledSubset]:
    (train, labels), (test, test_labels) = _colors(120, 0), _colors(60, 1)
    return LabeledSubset(train, np.arange(120), labels), LabeledSubset(test, np.arange(0, 60, 2), test_labels[::2])


def _measurements(model: ClusterModel, recipe: finetune.Recipe) -> dict[str, float]:
    return dict(pair for outcome in finetune.measure(model, *_sides(), recipe) for pair in outcome.measurements())


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    model = tiny.training(threads=1).model
    before = copy.deepcopy(model.state_dict())
    found = _measurements(model, _recipe(minutes=10, max_steps=40))
    assert all((model.state_dict()[name] == value).all() for name, value in before.items()), "the model was changed"
    return found


def test_few_labels_suffice_for_an_easy_task(figures: dict[str, float]) -> None:
    assert figures["eval/finetune_10_top1"] > 0.8
    assert figures["eval/finetune_10_top1"] >= figures["eval/finetune_1_top1"] - 0.1


def test_the_mean_and_each_draw_are_reported(figures: dict[str, float]) -> None:
    for percent in (1, 10):
        draws = [figures[f"eval/finetune_{percent}_top1_draw{draw}"] for draw in range(3)]
        assert figures[f"eval/finetune_{percent}_top1"] == pytest.approx(np.mean(draws))
        assert figures[f"eval/finetune_{percent}_top1_se"] >= 0


def test_the_time_limit_shortens_the_schedule(figures: dict[str, float]) -> None:
    assert figures["eval/finetune_10_steps"] == 40
    hurried = list(finetune.measure(tiny.training(threads=1).model, *_sides(), _recipe(minutes=0.003)))
    assert hurried[1].n_steps < hurried[1].n_planned == finetune.n_steps_of(12) == 200


def test_steps_follow_from_the_number_of_images() -> None:
    assert [finetune.n_steps_of(n) for n in (10, 640, 10**6)] == [200, 300, 2000]


def test_a_training_uses_all_of_its_images_and_no_others() -> None:
    index = np.array([4, 7, 9])
    plan = finetune._plan(index, 5, seed=0)
    assert len(plan.order) == 5 * 64
    assert set(plan.order.tolist()) == {4, 7, 9}
    assert np.bincount(plan.order)[index].min() >= 106
