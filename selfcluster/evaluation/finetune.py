"""Fine-tuning of the whole encoder on a few labels.

1 % or 10 % of the training images keep their labels, at least one per class, in three seeded draws that are the same for every
representation. The encoder and a linear layer on it are trained on one large crop of each image.

Source: the semi-supervised protocol of SimCLR, arXiv 2002.05709, section 5 and SwAV, arXiv 2006.09882, section 4.1. Deviations:
three draws of images instead of one fixed list; AdamW, with one schedule for all; a time limit.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from selfcluster import optim, randomness
from selfcluster.data.crops import MultiCrop
from selfcluster.data.loader import EpochPlan, Loader
from selfcluster.data.splits import stratified_split
from selfcluster.evaluation.protocol import LabeledSubset
from selfcluster.evaluation.standard_errors import mean_and_error
from selfcluster.evaluation.timm_encoder import Encoder
from selfcluster.models.features import extract_features
from selfcluster.settings.config import AugmentSettings, Interpolation

PERCENTS = (1, 10)
N_DRAWS = 3
_BATCH = 64
_PASSES, _MIN_STEPS, MAX_STEPS = 30, 200, 2000
_LR, _TOP_LR, _WEIGHT_DECAY = 5e-4, 5e-3, 0.01
_WARM_UP = 0.05
"""Share of the steps in which the learning rate warms up."""
_DRAW, _TRAIN = 0xF1, 0xF2
"""Keys of the random draws."""


@dataclass(frozen=True)
class Recipe:
    """How to prepare the images and train the network."""

    pixels: int
    """Side of the crops and of the test images."""
    interpolation: Interpolation
    """How the test images are resized."""
    area: tuple[float, float]
    """Smallest and largest share of the image that a crop shows."""
    augment: AugmentSettings
    """The run's; colors and sharpness are not changed, as in the papers."""
    device: torch.device
    precision: torch.dtype
    minutes: float
    """Time limit of one training, to which the schedule is shortened."""
    max_steps: int = MAX_STEPS
    workers: int = 0
    threads: int = 1


class _Classifier(nn.Module):
    """An encoder with a linear layer on it, which starts at zero."""

    def __init__(self, model: Encoder, n_classes: int) -> None:
        super().__init__()
        self.model, self.top = model, nn.Linear(model.n_features, n_classes)
        nn.init.zeros_(self.top.weight)
        nn.init.zeros_(self.top.bias)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        return self.top(self.model.encode(images))


@dataclass(frozen=True)
class Outcome:
    """Outcome of fine-tuning on one share of the labels."""

    percent: int
    correct: Bool[np.ndarray, "draws n"]
    """Whether each test image was classified correctly, for each draw of labels."""
    n_steps: int
    """Fewest steps that a training had time for."""
    n_planned: int
    """Steps of a training without a time limit."""

    def measurements(self) -> Iterator[tuple[str, float]]:
        """Yield `eval/finetune_1_top1`, the mean over the draws, with its standard error, then the value of each draw, and the steps."""
        name = f"eval/finetune_{self.percent}_top1"
        yield from mean_and_error(name, self.correct.mean(axis=0))
        yield from ((f"{name}_draw{draw}", float(of_draw.mean())) for draw, of_draw in enumerate(self.correct))
        yield f"eval/finetune_{self.percent}_steps", self.n_steps


def measure(model: Encoder, train: LabeledSubset, test: LabeledSubset, recipe: Recipe) -> Iterator[Outcome]:
    """Fine-tune on 1 % and on 10 % of the labels, and yield the outcome of each.

    Args:
        model: the encoder; it is copied, not changed.
        train: images of which a share keeps its labels.
        test: images that are used once, after each training.
        recipe: how to train.
    """
    for percent in PERCENTS:
        correct, steps = [], []
        for draw in range(N_DRAWS):
            _, chosen = stratified_split(train.codes, percent / 100, draw, _DRAW, keep=0)
            few = LabeledSubset(train.images, train.index[chosen], train.codes[chosen])
            classifier, n_steps, classes = _trained(model, few, recipe, draw)
            correct.append(classes[_predicted(classifier, test, recipe)] == test.codes)
            steps.append(n_steps)
        yield Outcome(percent, np.stack(correct), min(steps), n_steps_of(len(few.index), recipe.max_steps))


def n_steps_of(n_images: int, maximum: int = MAX_STEPS) -> int:
    """Return the steps of a training on this many labeled images, without a time limit."""
    return min(maximum, max(_MIN_STEPS, _PASSES * n_images // _BATCH))


def _trained(model: Encoder, few: LabeledSubset, recipe: Recipe, seed: int) -> tuple[_Classifier, int, NDArray[np.int64]]:
    """Return the trained classifier, its number of steps, and the class of each of its outputs."""
    classes, targets = np.unique(few.codes, return_inverse=True)
    wanted = torch.full((len(few.images),), -1, dtype=torch.int64)
    wanted[torch.from_numpy(few.index)] = torch.from_numpy(targets)
    with randomness.forked(seed, _TRAIN):
        classifier = _Classifier(copy.deepcopy(model), len(classes)).to(recipe.device).train()
        groups = [
            optim.ParameterGroup(
                "encoder", [p for p in classifier.model.parameters() if p.requires_grad], "adamw", optim.constant(_LR), 0.0, _WEIGHT_DECAY
            ),
            optim.ParameterGroup("top", list(classifier.top.parameters()), "adamw", optim.constant(_TOP_LR), 0.0, _WEIGHT_DECAY),
        ]
        optimizers = optim.build_optimizers(groups)
        total, done, started = n_steps_of(len(few.index), recipe.max_steps), 0, time.monotonic()
        shapes_only = replace(recipe.augment, jitter=0.0, grey=0.0, blur=0.0)
        loader = Loader(
            few.images,
            MultiCrop((1,), (recipe.pixels,), (recipe.area,), shapes_only),
            batch=_BATCH,
            seed=seed,
            device=recipe.device,
            workers=recipe.workers,
            threads=recipe.threads,
            max_broken_share=1.0,
        )
        try:
            for batch in loader.epoch(0, _plan(few.index, total, seed)):
                progress = max(done / total, (time.monotonic() - started) / (60 * recipe.minutes))
                if progress >= 1:
                    break
                optim.set_lr(optimizers, done)
                # Linear warm-up, then half a cosine to 0, over the steps or the time, whichever ends first.
                factor = min(1.0, progress / _WARM_UP + 0.1) * (1 + math.cos(math.pi * progress)) / 2
                for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
                    group["lr"] *= factor
                with torch.autocast(recipe.device.type, dtype=torch.bfloat16, enabled=recipe.precision == torch.bfloat16):
                    scores = classifier(batch.crops[0])
                cross_entropy(scores.float(), wanted[batch.index].to(recipe.device)).backward()
                optim.update(optimizers)
                done += 1
        finally:
            loader.close()
    return classifier, done, classes


def _plan(index: NDArray[np.int64], n_steps: int, seed: int) -> EpochPlan:
    """Return one long epoch of several passes over the images, each in its own order."""
    n_passes = -(-n_steps * _BATCH // len(index))
    order = np.concatenate([index[randomness.permutation(len(index), seed, _TRAIN, one)] for one in range(n_passes)])
    return EpochPlan(order[: n_steps * _BATCH])


def _predicted(classifier: _Classifier, test: LabeledSubset, recipe: Recipe) -> NDArray[np.int64]:
    scores = extract_features(
        classifier,
        test.images,
        index=test.index,
        pixels=recipe.pixels,
        interpolation=recipe.interpolation,
        device=recipe.device,
        precision=recipe.precision,
        workers=recipe.workers,
        threads=recipe.threads,
    )
    return scores.argmax(dim=1).numpy()
