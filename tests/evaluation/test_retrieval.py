from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from selfcluster.evaluation import retrieval

RNG = np.random.default_rng(0)


def _features(n: int = 60, width: int = 5) -> tuple[torch.Tensor, np.ndarray]:
    return torch.from_numpy(RNG.standard_normal((n, width))).float(), RNG.integers(0, 4, n).astype(np.int64)


def _naive(features: torch.Tensor, labels: np.ndarray) -> tuple[float, float]:
    """scikit-learn's average precision, and recall@1, one query at a time."""
    rows = torch.nn.functional.normalize(features).double().numpy()
    precision, right = [], []
    for query in range(len(rows)):
        others = np.delete(np.arange(len(rows)), query)
        if (labels[others] == labels[query]).any():
            cosine = rows[others] @ rows[query]
            precision.append(average_precision_score(labels[others] == labels[query], cosine))
            right.append(labels[others][cosine.argmax()] == labels[query])
    return float(np.mean(precision)), float(np.mean(right))


@pytest.mark.parametrize("chunk", [1, 130, 1 << 24])
def test_equals_a_naive_loop_in_chunks_of_any_size(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "_CHUNK_VALUES", chunk)
    features, labels = _features()
    figures = dict(retrieval.measure(features, labels))
    wanted = _naive(features, labels)
    assert figures["eval/retrieval_map"] == pytest.approx(wanted[0], abs=1e-6)
    assert figures["eval/retrieval_recall1"] == wanted[1]


def test_equal_images_share_a_rank() -> None:
    features, labels = _features(40)
    features[10:20] = features[0]
    assert dict(retrieval.measure(features, labels))["eval/retrieval_map"] == pytest.approx(_naive(features, labels)[0], abs=1e-5)


def test_perfect_features_score_1_and_constant_ones_chance() -> None:
    _, labels = _features()
    figures = dict(retrieval.measure(torch.eye(4)[torch.from_numpy(labels)], labels))
    assert figures["eval/retrieval_map"] == figures["eval/retrieval_recall1"] == 1
    chance = np.mean([((labels == label).sum() - 1) / (len(labels) - 1) for label in labels])
    assert dict(retrieval.measure(torch.ones(60, 3), labels))["eval/retrieval_map"] == pytest.approx(chance)


def test_shuffled_labels_score_chance() -> None:
    labels = np.arange(400) % 4
    features = torch.eye(4)[torch.from_numpy(labels)] + 0.1 * torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    figures = dict(retrieval.measure(features, RNG.permutation(labels)))
    assert figures["eval/retrieval_map"] == pytest.approx(0.25, abs=0.05)
    assert figures["eval/retrieval_recall1"] == pytest.approx(0.25, abs=0.08)


def test_an_image_alone_in_its_class_is_not_a_query() -> None:
    labels = np.array([0, 0, 1, 2, 2])
    assert retrieval.queries_of(labels).tolist() == [0, 1, 3, 4]
    assert dict(retrieval.measure(torch.eye(5), np.arange(5))) == {}


def test_of_many_images_a_seeded_sample_is_queried() -> None:
    labels = np.zeros(100, dtype=np.int64)
    drawn = retrieval.queries_of(labels, at_most=10)
    assert len(set(drawn)) == 10
    assert (drawn == retrieval.queries_of(labels, at_most=10)).all()
    assert (drawn != retrieval.queries_of(labels, at_most=10, seed=1)).any()
