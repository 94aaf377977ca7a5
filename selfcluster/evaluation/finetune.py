"""Fine-tuning: the whole encoder, trained on with a few labels.

Of the training images 1 % or 10 % keep their labels, one of each class at least, in three seeded draws that are the same for every
representation. A linear layer is put on the encoder and both are trained, on one large crop of each image.

Source: the semi-supervised protocol of SimCLR, arXiv 2002.05709, section 5 and SwAV, arXiv 2006.09882, section 4.1. Deviations:
three draws of images in place of one fixed list; AdamW, with one schedule for all; a limit of time.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from selfcluster import optim, randomness
from selfcluster.data.crops import MultiCrop
from selfcluster.data.loader import EpochPlan, Loader
from selfcluster.data.readers.images import Images
from selfcluster.data.splits import share_of_each_class
from selfcluster.evaluation.standard_errors import mean_and_error
from selfcluster.models.features import extract_features
from selfcluster.settings.config import AugmentSettings

PERCENTS = (1, 10)
N_DRAWS = 3
_BATCH = 64
_PASSES, _LEAST_STEPS, MOST_STEPS = 30, 200, 2000
_LR, _TOP_LR, _WEIGHT_DECAY = 5e-4, 5e-3, 0.01
_WARM_UP = 0.05
"""Share of the steps."""
_DRAW, _TRAIN = 0xF1, 0xF2
"""Keep the draws of one seed apart."""


@dataclass(frozen=True)
class Labeled:
    """Images of which some have a class that is known."""

    images: Images
    index: NDArray[np.int64]
    codes: NDArray[np.int64]
    """Class of each image of the index, from 0."""


@dataclass(frozen=True)
class Recipe:
    """How images are prepared and where the network trains."""

    pixels: int
    """Side of crops and of test images."""
    area: tuple[float, float]
    """Smallest and largest share of an image's area that a crop shows."""
    augment: AugmentSettings
    """The run's; colors and sharpness are left as they are, as the papers do."""
    device: torch.device
    precision: torch.dtype
    minutes: float
    """Limit of one training; the schedule is shortened to it."""
    most_steps: int = MOST_STEPS
    workers: int = 0
    threads: int = 1


class _Classifier(nn.Module):
    """An encoder with a linear layer on it, which begins at zero."""

    def __init__(self, model: nn.Module, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.model, self.top = model, nn.Linear(n_features, n_classes)
        nn.init.zeros_(self.top.weight)
        nn.init.zeros_(self.top.bias)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        return self.top(self.model.encode(images))  # type: ignore[operator]


def run(model: nn.Module, n_features: int, train: Labeled, test: Labeled, recipe: Recipe) -> Iterator[tuple[str, float]]:
    """Yields `eval/finetune_1_top1` and `eval/finetune_10_top1`: means over three draws of labels, with standard errors over test images.

    Each draw's own figure follows as `eval/finetune_1_top1_draw0` and so on, and `eval/finetune_1_steps` tells the fewest steps a
    training had time for.

    Args:
        model: has `encode`; is copied and stays as it is.
        n_features: width of its features.
        train: images of which a share keeps its labels.
        test: images that are looked at once, after each training.
        recipe: of training.
    """
    for percent in PERCENTS:
        right, steps = [], []
        for draw in range(N_DRAWS):
            chosen = share_of_each_class(train.codes, percent / 100, draw, _DRAW)
            few = Labeled(train.images, train.index[chosen], train.codes[chosen])
            classifier, n_steps, classes = _trained(model, n_features, few, recipe, draw)
            right.append(classes[_predicted(classifier, test, recipe)] == test.codes)
            steps.append(n_steps)
        name = f"eval/finetune_{percent}_top1"
        yield from mean_and_error(name, np.mean(right, axis=0))
        yield from ((f"{name}_draw{draw}", float(of_draw.mean())) for draw, of_draw in enumerate(right))
        yield f"eval/finetune_{percent}_steps", min(steps)


def n_steps_of(n_images: int, most: int = MOST_STEPS) -> int:
    """Steps of a training on this many labeled images, where time allows."""
    return min(most, max(_LEAST_STEPS, _PASSES * n_images // _BATCH))


def _trained(model: nn.Module, n_features: int, few: Labeled, recipe: Recipe, seed: int) -> tuple[_Classifier, int, NDArray[np.int64]]:
    """The classifier, how many steps it was trained, and the label of each of its outputs."""
    classes, targets = np.unique(few.codes, return_inverse=True)
    wanted = torch.full((len(few.images),), -1, dtype=torch.int64)
    wanted[torch.from_numpy(few.index)] = torch.from_numpy(targets)
    with randomness.forked(seed, _TRAIN):
        classifier = _Classifier(copy.deepcopy(model), n_features, len(classes)).to(recipe.device).train()
        groups = [
            optim.ParameterGroup(
                "encoder", [p for p in classifier.model.parameters() if p.requires_grad], "adamw", optim.constant(_LR), 0.0, _WEIGHT_DECAY
            ),
            optim.ParameterGroup("top", list(classifier.top.parameters()), "adamw", optim.constant(_TOP_LR), 0.0, _WEIGHT_DECAY),
        ]
        optimizers = optim.build_optimizers(groups)
        total, done, started = n_steps_of(len(few.index), recipe.most_steps), 0, time.monotonic()
        loader = _loader(few, recipe, seed)
        for batch in loader.epoch(0, _plan(few.index, total, seed)):
            progress = max(done / total, (time.monotonic() - started) / (60 * recipe.minutes))
            if progress >= 1:
                break
            optim.set_lr(optimizers, done)
            _scale_lr(optimizers, progress)
            with torch.autocast(recipe.device.type, dtype=torch.bfloat16, enabled=recipe.precision == torch.bfloat16):
                scores = classifier(batch.crops[0])
            cross_entropy(scores.float(), wanted[batch.index].to(recipe.device)).backward()
            optim.update(optimizers)
            done += 1
        loader.close()
    return classifier, done, classes


def _scale_lr(optimizers: dict[str, torch.optim.Optimizer], progress: float) -> None:
    """Linear warm-up, then half a cosine to 0, over whichever of steps and time is over first."""
    factor = min(1.0, progress / _WARM_UP + 0.1) * (1 + math.cos(math.pi * progress)) / 2
    for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
        group["lr"] *= factor


def _plan(index: NDArray[np.int64], n_steps: int, seed: int) -> EpochPlan:
    """Pass after pass over the images, each in an order of its own, as one long epoch."""
    n_passes = -(-n_steps * _BATCH // len(index))
    order = np.concatenate([index[randomness.permutation(len(index), seed, _TRAIN, one)] for one in range(n_passes)])
    return EpochPlan(order[: n_steps * _BATCH])


def _loader(few: Labeled, recipe: Recipe, seed: int) -> Loader:
    shapes_only = replace(recipe.augment, jitter=0.0, grey=0.0, blur=0.0)
    crops = MultiCrop((1,), (recipe.pixels,), (recipe.area,), shapes_only)
    return Loader(
        few.images,
        crops,
        batch=_BATCH,
        seed=seed,
        device=recipe.device,
        workers=recipe.workers,
        threads=recipe.threads,
        max_broken_share=1.0,
    )


def _predicted(classifier: _Classifier, test: Labeled, recipe: Recipe) -> NDArray[np.int64]:
    scores = extract_features(
        classifier,
        test.images,
        index=test.index,
        pixels=recipe.pixels,
        device=recipe.device,
        precision=recipe.precision,
        workers=recipe.workers,
        threads=recipe.threads,
    )
    return scores.argmax(dim=1).numpy()


def n_labeled(codes: NDArray[np.int64], percent: int) -> int:
    """How many images keep their labels."""
    return len(share_of_each_class(codes, percent / 100, 0, _DRAW))
