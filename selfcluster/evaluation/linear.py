"""Linear probe: how well a linear classifier of frozen features tells the classes apart.

The classifier is multinomial logistic regression on features that are standardised by the training images' mean and deviation. How
strongly its weights are held small is chosen on a part of the training images that was kept out of the fit; then it is fitted
again on all of them. The test images are looked at once, at the end.

The features themselves are not copied: W (x - mean) / deviation is W' x + b', so the scale is put into the weights, and images kept
out of a fit have weight 0. L-BFGS works in the coordinates in which the curvature is the identity where it starts, and is there in
tens of passes, where correlated features such as pixels would take it hundreds. Where a pass is too long even so, SGD goes over the
images a few times, with several learning rates side by side.

Source: Kornblith, Shlens and Le, "Do better ImageNet models transfer better?", arXiv 1805.08974, section 3.1: L-BFGS, the strength
from a path of them with warm starts, chosen on a validation set. Deviations: features are standardised; a strength a decade, from strong to weak, until two in a row are no better; of many
images, the strength is chosen on a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import cross_entropy

from selfcluster import randomness
from selfcluster.data.splits import share_of_each_class
from selfcluster.evaluation.standard_errors import mean_and_error

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Factor of half the squared weights, beside the mean loss; scikit-learn's C is 1 / (n * strength)."""

RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Learning rates of SGD that are tried side by side."""

_VALIDATION, _MAX_VALIDATION = 0.2, 20_000
_MOST_TO_CHOOSE = 12_500
"""Images that L-BFGS chooses the strength by."""
_MOST_FOR_CURVATURE = 10_000
"""Images that the curvature is estimated from; it makes the fit quick and does not change where it ends."""
_LARGE = 2e10
"""Images times features times classes above which SGD takes the place of L-BFGS."""
_CHUNK = 8192
_ROUGHLY = 1e-5
"""Tolerance of the fits that the strength is chosen by: beyond it the share of right predictions hardly moves."""
_EPOCHS, _BATCH = 10, 1024
_SPLIT, _ORDER, _SAMPLE = 0x11E, 0x11F, 0x120
"""Keep the draws of one seed apart."""


@dataclass(frozen=True)
class Probe:
    """A fitted linear classifier."""

    weight: Float[Tensor, "f c"]
    bias: Float[Tensor, " c"]
    classes: Int64[np.ndarray, " c"]
    """Label that each column stands for: those of the training images."""
    strength: float
    """That its weights were held small by; 0 for one by SGD."""
    rate: float = 0.0
    """Learning rate of SGD; 0 for one by L-BFGS."""

    def predict(self, features: Float[Tensor, "n f"]) -> NDArray[np.int64]:
        """The most probable class of each row."""
        parts = [(part.to(self.weight) @ self.weight + self.bias).argmax(dim=1).cpu().numpy() for part in features.split(_CHUNK)]
        return self.classes[np.concatenate(parts)]


def run(
    train: Float[Tensor, "n f"],
    train_labels: NDArray[np.int64],
    test: Float[Tensor, "m f"],
    test_labels: NDArray[np.int64],
    *,
    seed: int = 0,
    device: torch.device | None = None,
) -> Iterator[tuple[str, float]]:
    """Yields `eval/linear_top1` with its standard error, the share of test images that the probe classifies rightly, and what it chose.

    Args:
        train, test: features, as the encoder gives them.
        train_labels, test_labels: class of each row; one that no training image has is never predicted.
        seed: of the split that the strength (SGD: the learning rate) is chosen by.
        device: where to fit; None for where the features are.
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
    """The linear probe of these images.

    Args:
        features: as the encoder gives them; not changed.
        labels: class of each row.
        strength: of the regularization, above 0; None to choose it on a fifth of the images, kept out meanwhile. Of more than 12,500
            images it is chosen on a sample of so many, and lowered in proportion for all: regularization speaks for as many images.
        seed: of that split.
        device: where to fit; None for where the features are.
        large: images times features times classes above which SGD takes over (where no strength is given).
    Returns:
        one fitted on all of the images; by SGD, on those that were not kept out.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    problem = _Problem(features, torch.from_numpy(codes), len(classes), device or features.device)
    if strength is not None:
        return problem.probe(problem.minimum(problem.start(), strength, problem.all_alike()), classes, strength)
    if len(features) * features.shape[1] * len(classes) > large:
        share = min(_VALIDATION, _MAX_VALIDATION / len(codes))
        return _by_sgd(problem, classes, share_of_each_class(codes, share, seed, _SPLIT, left=1), seed)
    chooses = problem
    if len(codes) > _MOST_TO_CHOOSE:
        sample = torch.from_numpy(share_of_each_class(codes, _MOST_TO_CHOOSE / len(codes), seed, _SAMPLE))
        chooses = _Problem(features[sample], problem.codes[sample], len(classes), problem.device)
    kept_out = share_of_each_class(chooses.codes.numpy(), _VALIDATION, seed, _SPLIT, left=1)
    best, parameters = _chosen(chooses, kept_out)
    strength = best * (len(chooses.codes) - len(kept_out)) / len(codes)
    return problem.probe(problem.minimum(parameters, strength, problem.all_alike()), classes, strength)


def _chosen(problem: _Problem, kept_out: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """The strength that serves the images kept out best, the stronger of equals, and the parameters found with it."""
    weights = problem.without(kept_out)
    parameters, best, worse = problem.start(), (-1.0, STRENGTHS[0], problem.start()), 0
    for strength in STRENGTHS:
        parameters = problem.minimum(parameters, strength, weights, tolerance=_ROUGHLY)
        right = problem.share_right(parameters, kept_out)
        worse = 0 if right > best[0] else worse + 1
        if right > best[0]:
            best = (right, strength, parameters)
        if worse == 2:
            break
    return best[1], best[2]


class _Problem:
    """The mean loss of a linear classifier of standardised features, and what minimizes it.

    Parameters are a float64 vector, weights (f, c) then bias (c), as L-BFGS wants them; what is summed over images is float32.
    """

    def __init__(self, features: Tensor, codes: Tensor, n_classes: int, device: torch.device) -> None:
        self.features, self.codes, self.n_classes, self.device = features, codes, n_classes, device
        self.mean, self.deviation = _mean_and_deviation(features)

    @cached_property
    def correlation(self) -> NDArray[np.float64]:
        """Of the standardised features."""
        step = -(-len(self.features) // _MOST_FOR_CURVATURE)
        rows = ((self.features[::step] - self.mean.float()) / self.deviation.float()).to(self.device)
        return (rows.T @ rows / len(rows)).cpu().double().numpy()

    def start(self) -> NDArray[np.float64]:
        return np.zeros((self.features.shape[1] + 1) * self.n_classes)

    def all_alike(self) -> Tensor:
        """Weights of a fit on all images."""
        return torch.full((len(self.features),), 1 / len(self.features))

    def without(self, index: NDArray[np.int64]) -> Tensor:
        """Weights of a fit on all images but these."""
        weights = torch.ones(len(self.features))
        weights[torch.from_numpy(index)] = 0
        return weights / weights.sum()

    def minimum(self, start: NDArray[np.float64], strength: float, weights: Tensor, *, tolerance: float = 1e-6) -> NDArray[np.float64]:
        """Parameters that minimize the weighted loss plus `strength` times half the squared weights; the bias is free.

        Args:
            tolerance: stop where a step lowers the loss by less than this share of it.
        """
        # Where all classes are as likely the curvature is p (1 - p) times the correlation, for each class alike, plus the penalty's. With
        # root root' its equal, the curvature in root' W is 1. The mean of the features is taken out, so the bias stands apart.
        curvature = self.correlation * (1 - 1 / self.n_classes) / self.n_classes
        curvature[np.diag_indices_from(curvature)] += strength + 1e-7
        root = cholesky(curvature, lower=True)

        def moved(parameters: NDArray[np.float64], into: bool) -> NDArray[np.float64]:
            rows = parameters.reshape(-1, self.n_classes)
            weight = root.T @ rows[:-1] if into else solve_triangular(root, rows[:-1], lower=True, trans="T")
            return np.concatenate([weight, rows[-1:]]).ravel()

        def loss_and_gradient(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            loss, gradient = self._loss_and_gradient(moved(at, into=False), strength, weights)
            rows = gradient.reshape(-1, self.n_classes)
            return loss, np.concatenate([solve_triangular(root, rows[:-1], lower=True), rows[-1:]]).ravel()

        found = minimize(
            loss_and_gradient,
            moved(start, into=True),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 300, "gtol": 1e-5, "ftol": tolerance, "maxcor": 10},
        )
        return moved(found.x, into=False)

    def probe(self, parameters: NDArray[np.float64], classes: NDArray[np.int64], strength: float) -> Probe:
        weight, bias = self._of_raw_features(parameters)
        return Probe(weight, bias, classes, strength)

    def share_right(self, parameters: NDArray[np.float64], index: NDArray[np.int64]) -> float:
        weight, bias = self._of_raw_features(parameters)
        right = 0
        for part in torch.from_numpy(index).split(_CHUNK):
            scores = self.features[part].to(self.device) @ weight + bias
            right += int((scores.argmax(dim=1).cpu() == self.codes[part]).sum())
        return right / max(1, len(index))

    def _of_raw_features(self, parameters: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        weight, bias = self._unpacked(parameters)
        weight = weight / self.deviation[:, None]
        bias = bias - self.mean @ weight
        return weight.float().to(self.device), bias.float().to(self.device)

    def _unpacked(self, parameters: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(parameters).view(-1, self.n_classes)
        return rows[:-1], rows[-1]

    def _loss_and_gradient(self, parameters: NDArray[np.float64], strength: float, weights: Tensor) -> tuple[float, NDArray[np.float64]]:
        weight, bias = self._of_raw_features(parameters)
        loss, of_weight, of_bias = 0.0, torch.zeros_like(weight), torch.zeros_like(bias)
        for part in (slice(start, start + _CHUNK) for start in range(0, len(self.features), _CHUNK)):
            x, wanted, w = (t[part].to(self.device) for t in (self.features, self.codes, weights))
            log_share = torch.addmm(bias, x, weight).log_softmax(dim=1)
            chosen = log_share.gather(1, wanted[:, None])[:, 0]
            loss -= float(w @ chosen)
            slope = log_share.exp_().scatter_add_(1, wanted[:, None], -torch.ones_like(chosen)[:, None]) * w[:, None]
            of_weight.addmm_(x.T, slope)
            of_bias += slope.sum(dim=0)
        weight_64, _ = self._unpacked(parameters)
        wide_bias = of_bias.double().cpu()
        wide = (of_weight.double().cpu() - torch.outer(self.mean, wide_bias)) / self.deviation[:, None] + strength * weight_64
        return loss + strength / 2 * float(weight_64.square().sum()), torch.cat([wide, wide_bias[None]]).flatten().numpy()


def _mean_and_deviation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Of each feature, in float64; a feature that is constant has deviation 1, so that it stays what it is: of no use."""
    n = len(features)
    mean = features.sum(dim=0, dtype=torch.float64).cpu() / n
    squares = sum((part - mean.to(part)).square().sum(dim=0, dtype=torch.float64).cpu() for part in features.split(_CHUNK))
    deviation = torch.as_tensor(squares / n).sqrt()
    largest = float(deviation.max()) if len(deviation) else 0.0
    return mean, torch.where(deviation > 1e-6 * largest, deviation, torch.ones_like(deviation))


def _by_sgd(problem: _Problem, classes: NDArray[np.int64], kept_out: NDArray[np.int64], seed: int) -> Probe:
    """The best, on the images kept out, of several probes that are trained side by side, a learning rate each.

    SGD with momentum 0.9 and a cosine schedule, batches of 1,024, 10 epochs, no weight decay; the same batch serves every rate.
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
    vectors = [torch.cat([w, b]).detach().double().cpu().flatten().numpy() for w, b in zip(weight, bias, strict=True)]
    best = max(range(len(RATES)), key=lambda i: problem.share_right(vectors[i], kept_out))
    raw_weight, raw_bias = problem._of_raw_features(vectors[best])
    return Probe(raw_weight, raw_bias, classes, 0.0, RATES[best])
