from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from selfcluster.clustering import metrics

CLASSES = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("figure", [metrics.nmi, metrics.ami, metrics.ari, metrics.matched_accuracy, metrics.purity])
def test_equal_partitions_score_one_whatever_the_names(figure) -> None:
    assert figure(CLASSES, CLASSES) == pytest.approx(1)
    assert figure(CLASSES, np.array([7, 7, 7, 0, 0, 0, 3, 3, 3])) == pytest.approx(1)
    assert figure(np.array(list("aaabbbccc")), CLASSES) == pytest.approx(1)


def test_unrelated_partitions_score_about_zero() -> None:
    rng = np.random.default_rng(0)
    labels, many = rng.integers(0, 5, 2000), rng.integers(0, 500, 2000)
    assert abs(metrics.ami(labels, many)) < 0.03
    assert abs(metrics.ari(labels, many)) < 0.03
    assert metrics.nmi(labels, many) > 0.1, "raw NMI grows with the number of clusters"


def test_hand_made_case() -> None:
    labels, clusters = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    joint = np.array([0.5, 0.25, 0.25])
    mutual = 0.5 * math.log(0.5 / (0.5 * 0.75)) + 0.25 * math.log(0.25 / (0.5 * 0.75)) + 0.25 * math.log(0.25 / (0.5 * 0.25))
    entropies = math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert joint.sum() == 1
    assert metrics.nmi(labels, clusters) == pytest.approx(mutual / (sum(entropies) / 2))
    # Pairs together in both: 1; in labels: 2; in clusters: 3; of 6. Expected 2 * 3 / 6 = 1, largest (2 + 3) / 2.
    assert metrics.ari(labels, clusters) == pytest.approx((1 - 1) / (2.5 - 1), abs=1e-12)
    assert metrics.matched_accuracy(labels, clusters) == 0.75


def test_matching_is_the_best_one_not_the_greedy_one() -> None:
    # Cluster 0 holds 3 of class 0 and 2 of class 1; cluster 1 holds 2 of class 0: greedy keeps 3, the best matching 4.
    labels = np.array([0, 0, 0, 1, 1, 0, 0])
    clusters = np.array([0, 0, 0, 0, 0, 1, 1])
    assert metrics.matched_accuracy(labels, clusters) == pytest.approx(4 / 7)


def test_surplus_clusters_count_as_wrong() -> None:
    assert metrics.matched_accuracy(CLASSES, np.arange(9)) == pytest.approx(3 / 9)
    assert metrics.matched_accuracy(CLASSES, np.array([0, 0, 3, 1, 1, 1, 2, 2, 2])) == pytest.approx(8 / 9)


def test_too_few_clusters_leave_classes_wrong() -> None:
    assert metrics.matched_accuracy(CLASSES, np.zeros(9, dtype=int)) == pytest.approx(3 / 9)


@pytest.mark.parametrize("figure", [metrics.nmi, metrics.ami, metrics.ari, metrics.matched_accuracy, metrics.purity])
@pytest.mark.parametrize(("labels", "clusters"), [([], []), ([0, 1], [0]), ([[0], [1]], [[0], [1]])])
def test_refuses_other_shapes(figure, labels: list, clusters: list) -> None:
    with pytest.raises(ValueError, match="two vectors"):
        figure(labels, clusters)


def test_purity_takes_the_commonest_class_of_each_cluster() -> None:
    assert metrics.purity(CLASSES, np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])) == pytest.approx((3 + 3) / 9)
    assert metrics.purity(CLASSES, np.arange(9)) == 1
    assert metrics.purity(CLASSES, np.zeros(9)) == pytest.approx(1 / 3)


def test_prototypes_used() -> None:
    assert metrics.prototypes_used(torch.arange(12).reshape(3, 4) % 6, 6) == pytest.approx(6)
    assert metrics.prototypes_used(torch.zeros(9, dtype=torch.int64), 6) == pytest.approx(1)
    assert metrics.prototypes_used(torch.tensor([0, 3]), 100) == pytest.approx(2)


def test_rankme() -> None:
    assert metrics.rankme(torch.eye(16)) == pytest.approx(16, rel=1e-3)
    assert metrics.rankme(torch.cat([torch.eye(4)] * 3)) == pytest.approx(4, rel=1e-3)
    assert metrics.rankme(torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 7))) == pytest.approx(1, rel=1e-3)
    assert metrics.rankme(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-4
    )
    assert math.isfinite(metrics.rankme(torch.zeros(4, 3)))


def test_accepts_arrays_and_tensors() -> None:
    x = np.eye(6, dtype=np.float32)
    assert metrics.rankme(x) == metrics.rankme(torch.from_numpy(x))
