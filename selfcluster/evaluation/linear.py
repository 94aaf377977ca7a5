"""Linear probe: accuracy of a linear classifier of frozen features.

The classifier is multinomial logistic regression on features that are standardized by the training images' mean and deviation. The
strength of its regularization is chosen on training images held out from the fit; then it is fitted again on all of them. The test
images are used once, at the end. If L-BFGS would take too long, SGD with several learning rates in parallel takes its place.

Source: Kornblith, Shlens and Le, "Do better ImageNet models transfer better?", arXiv 1805.08974, section 3.1: L-BFGS, the strength
from a path with warm starts, chosen on a validation set. Deviations: features are standardized; one strength per decade, from strong to
weak, until two in a row are no better; of many images, the strength is chosen on a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from selfcluster import randomness
from selfcluster.data.splits import stratified_split
from selfcluster.evaluation.softmax_regression import SoftmaxRegression
from selfcluster.evaluation.standard_errors import mean_and_error

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Regularization strengths: factors of half the squared weights, added to the mean loss; scikit-learn's C is 1 / (n * strength)."""

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Learning rates of SGD, tried in parallel."""

_VALIDATION, _MAX_VALIDATION = 0.2, 20_000
_MOST_TO_CHOOSE = 12_500
"""Most images on which L-BFGS chooses the strength."""
_LARGE = 2e10
"""Images times features times classes above which SGD replaces L-BFGS."""
_CHUNK = 8192
_ROUGH = 1e-5
"""Tolerance of the fits that choose the strength: a tighter one hardly changes their accuracy."""
_EPOCHS, _BATCH = 10, 1024
_SPLIT, _ORDER, _SAMPLE = 0x11E, 0x11F, 0x120
"""Keys of the random draws."""


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier."""

    weight: Float[Tensor, "f c"]
    bias: Float[Tensor, " c"]
    classes: Int64[np.ndarray, " c"]
    """Label of each column: those of the training images."""
    strength: float
    """Regularization strength; 0 for a probe fitted by SGD."""
    rate: float = 0.0
    """Learning rate of SGD; 0 for a probe fitted by L-BFGS."""

    def predict(self, features: Float[Tensor, "n f"]) -> NDArray[np.int64]:
        """Return the most probable class of each row."""
        parts = [(part.to(self.weight) @ self.weight + self.bias).argmax(dim=1).cpu().numpy() for part in features.split(_CHUNK)]
        return self.classes[np.concatenate(parts)]


def measure(
    train: Float[Tensor, "n f"],
    train_labels: NDArray[np.int64],
    test: Float[Tensor, "m f"],
    test_labels: NDArray[np.int64],
    *,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[tuple[str, float]]:
    """Yield the accuracy, `eval/linear_top1`, with its standard error, and `eval/linear_strength` (SGD: `eval/linear_rate`).

    Args:
        train, test: features, not standardized.
        train_labels, test_labels: class of each row; a class without training images is never predicted.
        seed: random seed of the split that chooses the strength (SGD: the learning rate).
        device: where to fit; None for the device of the features.
    """
    probe = fit(train, train_labels, seed=seed, device=device)
    yield from mean_and_error("eval/linear_top1", probe.predict(test) == test_labels)
    if probe.rate:
        yield "eval/linear_rate", probe.rate
    else:
        yield "eval/linear_strength", probe.strength


def fit(
    features: Float[Tensor, "n f"],
    labels: NDArray[np.int64],
    *,
    strength: float | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    large: float = _LARGE,
) -> Probe:
    """Fit a linear probe.

    Args:
        features: features, not standardized; not changed.
        labels: class of each row.
        strength: regularization strength, above 0; None to choose it on a fifth of the images, held out meanwhile. With more than 12,500
            images it is chosen on a sample of that size, and lowered in proportion to the number of images for the final fit.
        seed: random seed of that split.
        device: where to fit; None for the device of the features.
        large: images times features times classes above which SGD replaces L-BFGS (if no strength is given).
    Returns:
        a probe fitted on all images; by SGD, on those that were not held out.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    problem = SoftmaxRegression(features, torch.from_numpy(codes), len(classes), device or features.device)
    if strength is not None:
        parameters = problem.minimum(problem.zeros(), strength, problem.uniform_weights())
        return Probe(*problem.on_raw_features(parameters), classes, strength)
    if len(features) * features.shape[1] * len(classes) > large:
        share = min(_VALIDATION, _MAX_VALIDATION / len(codes))
        return _by_sgd(problem, classes, stratified_split(codes, share, seed, _SPLIT)[1], seed)
    chooses = problem
    if len(codes) > _MOST_TO_CHOOSE:
        sample = torch.from_numpy(stratified_split(codes, _MOST_TO_CHOOSE / len(codes), seed, _SAMPLE, keep=0)[1])
        chooses = SoftmaxRegression(features[sample], problem.codes[sample], len(classes), problem.device)
    _, kept_out = stratified_split(chooses.codes.numpy(), _VALIDATION, seed, _SPLIT)
    best, parameters = _chosen(chooses, kept_out)
    strength = best * (len(chooses.codes) - len(kept_out)) / len(codes)
    parameters = problem.minimum(parameters, strength, problem.uniform_weights())
    return Probe(*problem.on_raw_features(parameters), classes, strength)


def _chosen(problem: SoftmaxRegression, kept_out: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """Return the strength with the best accuracy on the held-out images, the stronger of equals, and its parameters."""
    weights = problem.weights_without(kept_out)
    parameters, best, worse = problem.zeros(), (-1.0, STRENGTHS[0], problem.zeros()), 0
    for strength in STRENGTHS:
        parameters = problem.minimum(parameters, strength, weights, tolerance=_ROUGH)
        accuracy = problem.accuracy(parameters, kept_out)
        if accuracy > best[0]:
            best, worse = (accuracy, strength, parameters), 0
        elif (worse := worse + 1) == 2:
            break
    return best[1], best[2]


def _by_sgd(problem: SoftmaxRegression, classes: NDArray[np.int64], kept_out: NDArray[np.int64], seed: int) -> Probe:
    """Train probes with several learning rates in parallel and return the best on the held-out images.

    SGD with momentum 0.9 and a cosine schedule, batches of 1,024, 10 epochs, no weight decay; all rates share each batch.
    """
    device, c = problem.device, problem.n_classes
    mean, deviation = problem.mean.float().to(device), problem.deviation.float().to(device)
    trained = np.setdiff1d(np.arange(len(problem.features)), kept_out)
    batch = min(_BATCH, len(trained))
    weight = torch.zeros(len(RATES), problem.features.shape[1], c, device=device, requires_grad=True)
    bias = torch.zeros(len(RATES), 1, c, device=device, requires_grad=True)
    speed = [torch.zeros_like(p) for p in (weight, bias)]
    rates = torch.tensor(RATES, device=device)[:, None, None]
    per_epoch = len(trained) // batch
    for step in range(_EPOCHS * per_epoch):
        if step % per_epoch == 0:
            order = trained[randomness.permutation(len(trained), seed, _ORDER, step // per_epoch)]
        rows = torch.from_numpy(order[(step % per_epoch) * batch :][:batch])
        x, wanted = (problem.features[rows].to(device) - mean) / deviation, problem.codes[rows].to(device)
        scores = x @ weight + bias
        loss = cross_entropy(scores.flatten(0, 1), wanted.repeat(len(RATES)), reduction="sum") / batch
        gradients = torch.autograd.grad(loss, (weight, bias))
        pace = rates * (1 + math.cos(math.pi * step / (_EPOCHS * per_epoch))) / 2
        with torch.no_grad():
            for parameter, v, gradient in zip((weight, bias), speed, gradients, strict=True):
                v.mul_(0.9).add_(gradient)
                parameter -= pace * v
    vectors = [torch.cat([w, b]).detach().cpu().double().flatten().numpy() for w, b in zip(weight, bias, strict=True)]
    best = max(range(len(RATES)), key=lambda i: problem.accuracy(vectors[i], kept_out))
    return Probe(*problem.on_raw_features(vectors[best]), classes, 0.0, RATES[best])
