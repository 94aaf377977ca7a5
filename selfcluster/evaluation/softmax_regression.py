"""Multinomial logistic regression of standardized features by L-BFGS, for linear probes.

The features are not copied: W (x - mean) / deviation is W' x + b', so the scaling goes into the weights, and images held out of a fit
have weight 0. L-BFGS runs in coordinates in which the curvature is the identity at its starting point, so it converges in tens of
iterations, where correlated features such as pixels would take hundreds.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from torch import Tensor

_CURVATURE_ROWS = 10_000
"""Images that the curvature is estimated from; it speeds up the fit and does not change its result."""
_CHUNK = 8192
"""Images scored at a time."""


class SoftmaxRegression:
    """The mean cross-entropy of a linear classifier of standardized features, and its minimum.

    Parameters are a float64 vector, weights (f, c) then bias (c), as L-BFGS takes them; sums over images are in float32.

    Args:
        features: features of the images; not changed.
        codes: class of each image, from 0.
        n_classes: number of classes.
        device: where to compute.
    """

    def __init__(self, features: Tensor, codes: Tensor, n_classes: int, device: torch.device) -> None:
        self.features, self.codes, self.n_classes, self.device = features, codes, n_classes, device
        self.mean = features.sum(dim=0, dtype=torch.float64).cpu() / len(features)
        squares = sum((part - self.mean.to(part)).square().sum(dim=0, dtype=torch.float64).cpu() for part in features.split(_CHUNK))
        deviation = torch.as_tensor(squares / len(features)).sqrt()
        # A constant feature is of no use; divided by 1, it stays so.
        self.deviation = torch.where(deviation > 1e-6 * deviation.max(), deviation, 1.0)

    @cached_property
    def correlation(self) -> NDArray[np.float64]:
        """Correlation matrix of the features."""
        step = -(-len(self.features) // _CURVATURE_ROWS)
        rows = ((self.features[::step] - self.mean.float()) / self.deviation.float()).to(self.device)
        return (rows.T @ rows / len(rows)).cpu().double().numpy()

    def zeros(self) -> NDArray[np.float64]:
        """Return the starting point of a fit, where all classes are equally likely."""
        return np.zeros((self.features.shape[1] + 1) * self.n_classes)

    def uniform_weights(self) -> Tensor:
        """Return the weights of a fit on all images."""
        return torch.full((len(self.features),), 1 / len(self.features))

    def weights_without(self, index: NDArray[np.int64]) -> Tensor:
        """Return the weights of a fit on all images but these."""
        weights = torch.ones(len(self.features))
        weights[torch.from_numpy(index)] = 0
        return weights / weights.sum()

    def minimum(self, start: NDArray[np.float64], strength: float, weights: Tensor, *, tolerance: float = 1e-6) -> NDArray[np.float64]:
        """Return the parameters that minimize the weighted loss plus `strength` times half the squared weights, without the bias.

        Args:
            tolerance: stop when a step lowers the loss by less than this share of it.
        """
        # Where all classes are equally likely, the curvature is p (1 - p) times the correlation for each class, plus the penalty's. If it
        # is root root', the curvature in root' W is 1. The features are centered, so the bias is independent of the weights.
        curvature = self.correlation * (1 - 1 / self.n_classes) / self.n_classes
        curvature[np.diag_indices_from(curvature)] += strength + 1e-7
        root = cholesky(curvature, lower=True)

        def moved(parameters: NDArray[np.float64], into: bool) -> NDArray[np.float64]:
            rows = parameters.reshape(-1, self.n_classes)
            weight = root.T @ rows[:-1] if into else solve_triangular(root, rows[:-1], lower=True, trans="T")
            return np.concatenate([weight, rows[-1:]]).ravel()

        def loss_and_gradient(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            loss, gradient = self.loss_and_gradient(moved(at, into=False), strength, weights)
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

    def accuracy(self, parameters: NDArray[np.float64], index: NDArray[np.int64]) -> float:
        """Return the share of these images that the parameters classify correctly."""
        weight, bias = self.on_raw_features(parameters)
        right = 0
        for part in torch.from_numpy(index).split(_CHUNK):
            scores = self.features[part].to(self.device) @ weight + bias
            right += int((scores.argmax(dim=1).cpu() == self.codes[part]).sum())
        return right / max(1, len(index))

    def on_raw_features(self, parameters: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the same classifier, in float32, for features that are not standardized."""
        rows = torch.from_numpy(parameters).view(-1, self.n_classes)
        weight = rows[:-1] / self.deviation[:, None]
        bias = rows[-1] - self.mean @ weight
        return weight.float().to(self.device), bias.float().to(self.device)

    def loss_and_gradient(self, parameters: NDArray[np.float64], strength: float, weights: Tensor) -> tuple[float, NDArray[np.float64]]:
        """Return the weighted loss with its penalty, and its gradient."""
        weight, bias = self.on_raw_features(parameters)
        loss, of_weight, of_bias = 0.0, torch.zeros_like(weight), torch.zeros_like(bias)
        for part in (slice(start, start + _CHUNK) for start in range(0, len(self.features), _CHUNK)):
            x, wanted, w = (t[part].to(self.device) for t in (self.features, self.codes, weights))
            log_share = torch.addmm(bias, x, weight).log_softmax(dim=1)
            chosen = log_share.gather(1, wanted[:, None])[:, 0]
            loss -= float(w @ chosen)
            slope = log_share.exp_().scatter_add_(1, wanted[:, None], -torch.ones_like(chosen)[:, None]) * w[:, None]
            of_weight.addmm_(x.T, slope)
            of_bias += slope.sum(dim=0)
        standardized = torch.from_numpy(parameters).view(-1, self.n_classes)[:-1]
        wide_bias = of_bias.cpu().double()
        wide = (of_weight.cpu().double() - torch.outer(self.mean, wide_bias)) / self.deviation[:, None] + strength * standardized
        return loss + strength / 2 * float(standardized.square().sum()), torch.cat([wide, wide_bias[None]]).flatten().numpy()
