from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from selfcluster.evaluation import linear, softmax_regression
from selfcluster.evaluation.softmax_regression import SoftmaxRegression

RNG = np.random.default_rng(0)


def _blobs(n: int, noise: float, *, classes: int = 4, width: int = 12) -> tuple[torch.Tensor, np.ndarray]:
    """Classes around different corners, far from the origin, with features on very different scales."""
    labels = RNG.integers(0, classes, n).astype(np.int64)
    rows = np.eye(classes, width)[labels] * 2 + noise * RNG.standard_normal((n, width))
    return torch.from_numpy(rows * np.logspace(-2, 2, width) + 5).float(), labels


def test_separable_classes_are_classified_correctly() -> None:
    figures = dict(linear.measure(*_blobs(300, 0.1), *_blobs(100, 0.1)))
    assert figures["eval/linear_top1"] == 1
    assert figures["eval/linear_top1_se"] == 0


def test_shuffled_labels_score_chance() -> None:
    features, labels = _blobs(600, 0.1)
    test, test_labels = _blobs(600, 0.1)
    top1 = dict(linear.measure(features, RNG.permutation(labels), test, test_labels))["eval/linear_top1"]
    assert top1 == pytest.approx(0.25, abs=0.12)


@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_equals_scikit_learns_on_standardized_features(strength: float) -> None:
    features, labels = _blobs(400, 1.5)
    test, _ = _blobs(400, 1.5)
    probe = linear.fit(features, labels, strength=strength)
    scaler = StandardScaler().fit(features.double().numpy())
    theirs = LogisticRegression(C=1 / (len(labels) * strength), tol=1e-10, max_iter=5000)
    theirs.fit(scaler.transform(features.double().numpy()), labels)
    scaled = torch.from_numpy(scaler.transform(test.double().numpy()))
    wanted = (scaled @ torch.from_numpy(theirs.coef_).T + torch.from_numpy(theirs.intercept_)).softmax(dim=1)
    found = (test @ probe.weight + probe.bias).softmax(dim=1)
    assert found.double() == pytest.approx(wanted, abs=0.01)
    assert (probe.predict(test) == theirs.predict(scaled.numpy())).mean() > 0.99


def test_the_gradient_is_that_of_the_loss() -> None:
    features, labels = _blobs(50, 1.0)
    problem = SoftmaxRegression(features, torch.from_numpy(labels), 4, torch.device("cpu"))
    weights, at = problem.weights_without(np.array([3, 7])), RNG.standard_normal(13 * 4)
    x = (features.double() - features.double().mean(dim=0)) / features.double().std(dim=0, correction=0)
    parameters = torch.from_numpy(at).requires_grad_()
    rows = parameters.view(13, 4)
    each = torch.nn.functional.cross_entropy(x @ rows[:-1] + rows[-1], torch.from_numpy(labels), reduction="none")
    naive = (each * torch.ones(50).index_fill(0, torch.tensor([3, 7]), 0)).sum() / 48 + 0.01 / 2 * rows[:-1].square().sum()
    naive.backward()
    loss, gradient = problem.loss_and_gradient(at, 0.01, weights)
    assert loss == pytest.approx(naive.item(), rel=1e-5)
    assert gradient == pytest.approx(parameters.grad.numpy(), abs=1e-5)


def test_the_strength_does_not_depend_on_the_test_images() -> None:
    train, labels = _blobs(120, 2.0)
    test, test_labels = _blobs(60, 2.0)
    chosen = dict(linear.measure(train, labels, test, test_labels))["eval/linear_strength"]
    for others in (np.zeros_like(test_labels), RNG.permutation(test_labels), 3 - test_labels):
        assert dict(linear.measure(train, labels, test, others))["eval/linear_strength"] == chosen
    assert dict(linear.measure(train, labels, torch.rand(5, 12) * 100, np.zeros(5, dtype=np.int64)))["eval/linear_strength"] == chosen


def test_the_strength_is_the_best_on_the_held_out_images() -> None:
    # 30 images in 200 directions: with little regularization the noise is learned.
    features, labels = _blobs(60, 1.0, classes=2, width=200)
    probe = linear.fit(features, labels, seed=1)
    problem = SoftmaxRegression(features, torch.from_numpy(labels), 2, torch.device("cpu"))
    _, kept_out = linear.stratified_split(labels, 0.2, 1, linear._SPLIT)
    shares = [problem.accuracy(problem.minimum(problem.zeros(), s, problem.weights_without(kept_out)), kept_out) for s in linear.STRENGTHS]
    # For the fit on all images, the strength is lowered in proportion to their number.
    place = int(np.abs(np.array(linear.STRENGTHS) * (60 - len(kept_out)) / 60 - probe.strength).argmin())
    assert probe.strength == pytest.approx(linear.STRENGTHS[place] * (60 - len(kept_out)) / 60)
    assert shares[place] >= max(shares) - 1 / len(kept_out)


def test_held_out_images_do_not_affect_the_fit() -> None:
    features, labels = _blobs(100, 1.0)
    problem = SoftmaxRegression(features, torch.from_numpy(labels), 4, torch.device("cpu"))
    other = torch.from_numpy(np.where(np.arange(100) < 20, 3 - labels, labels))
    same = SoftmaxRegression(features, other, 4, torch.device("cpu"))
    weights = problem.weights_without(np.arange(20))
    assert (problem.minimum(problem.zeros(), 0.01, weights) == same.minimum(same.zeros(), 0.01, weights)).all()


def test_awkward_features_and_labels() -> None:
    features, labels = _blobs(80, 0.1)
    features[:, 3] = 7.0  # constant
    before = features.clone()
    labels = labels + 10  # not from 0
    labels[0] = 99  # a class of one image
    test, test_labels = _blobs(40, 0.1)
    test_labels = test_labels + 10
    test_labels[:4] = 5  # a class that no training image has
    test[:, 3] = 7.0
    assert dict(linear.measure(features, labels, test, test_labels))["eval/linear_top1"] == pytest.approx(0.9, abs=0.05)
    assert (features == before).all()


def test_sgd_is_about_as_accurate_as_lbfgs() -> None:
    train, labels = _blobs(6000, 1.5)
    test, test_labels = _blobs(2000, 1.5)
    by_sgd = linear.fit(train, labels, large=0)
    assert by_sgd.rate in linear.RATES
    exact = (linear.fit(train, labels).predict(test) == test_labels).mean()
    assert (by_sgd.predict(test) == test_labels).mean() == pytest.approx(exact, abs=0.02)
    assert 0.5 < exact < 0.99


def test_with_many_images_the_strength_is_chosen_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels = _blobs(2000, 1.5)
    test, test_labels = _blobs(1000, 1.5)
    whole = linear.fit(train, labels)
    monkeypatch.setattr(linear, "_MOST_TO_CHOOSE", 400)
    monkeypatch.setattr(softmax_regression, "_CURVATURE_ROWS", 300)
    sampled = linear.fit(train, labels)
    # About 320 of the sample's 400 images were fitted; the strength is lowered in proportion for all 2,000.
    tried = np.array(linear.STRENGTHS) * 320 / 2000
    assert np.abs(tried / sampled.strength - 1).min() < 0.03
    right = [(probe.predict(test) == test_labels).mean() for probe in (whole, sampled)]
    assert right[1] == pytest.approx(right[0], abs=0.02)
