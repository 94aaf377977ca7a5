from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import selfcluster as sc
from selfcluster.evaluate import clusters, evaluate, knn
from tests import tiny

RNG = np.random.default_rng(0)


def _blobs(n: int, classes: int = 3) -> tuple[torch.Tensor, np.ndarray]:
    labels = np.arange(n) % classes
    centres = torch.eye(8)[:classes] * 5
    return centres[labels] + 0.3 * torch.from_numpy(RNG.standard_normal((n, 8))).float(), labels.astype(np.int64)


def test_knn_equals_a_naive_vote() -> None:
    train, labels = _blobs(60)
    train = train + torch.from_numpy(RNG.standard_normal((60, 8))).float() * 3
    test, wanted = _blobs(20)
    k = 5
    right = 0
    for row, label in zip(torch.nn.functional.normalize(test), wanted, strict=True):
        cosine = torch.nn.functional.normalize(train) @ row
        nearest = cosine.argsort(descending=True)[:k]
        votes = np.zeros(3)
        for i in nearest.tolist():
            votes[labels[i]] += np.exp(cosine[i].item() / 0.1)
        right += votes.argmax() == label
    assert dict(knn.run(train, labels, test, wanted, ks=(k,))) == {"eval/knn_top1_k5": pytest.approx(right / 20)}


def test_k_is_lowered_below_the_smallest_class() -> None:
    assert knn.usable_k(200, np.array([0] * 50 + [1] * 11)) == 10
    assert knn.usable_k(20, np.array([0] * 50 + [1] * 21)) == 20
    assert knn.usable_k(20, np.array([0] * 50 + [1])) == 1


def test_clusters_of_separate_blobs_are_the_classes() -> None:
    figures = dict(clusters.run(*_blobs(90)))
    assert figures == {name: pytest.approx(1) for name in ("cluster/accuracy", "cluster/nmi", "cluster/ami", "cluster/ari")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of three classes that are told apart by colour, a broken image in each."""
    root = tmp_path_factory.mktemp("set")
    for part, n in (("train", 24), ("val", 6)):
        for name, colour in (("red", (255, 60, 60)), ("green", (60, 255, 60)), ("blue", (60, 60, 255))):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                noise = RNG.integers(0, 60, (20, 20, 3))
                Image.fromarray((np.array(colour) * 0.7 + noise).astype(np.uint8)).save(root / part / name / f"{i}.png")
        (root / part / "red" / "broken.png").write_bytes(b"no")
    return root


def test_splits_are_recognised_and_every_table_has_its_floors(folder: Path, tmp_path: Path) -> None:
    run = sc.train(folder, out=tmp_path / "run", workers=0, **{**tiny.SETTINGS, "epochs": 1})
    evaluation = evaluate(run)
    assert list(evaluation.figures) == ["raw pixels", "untrained encoder", "trained encoder"]
    assert evaluation.figures["raw pixels"]["eval/knn_top1_k20"] == 1.0
    assert evaluation.figures["raw pixels"]["cluster/accuracy"] == 1.0
    notes = " ".join(evaluation.notes)
    assert "tested on 18 images of the test split" in notes or "tested on 19 images of the test split" in notes
    assert "1 images that cannot be read are left out" in notes
    assert "k = 200 is lowered to 23" in notes
    kept = json.loads((run.path / "evaluation.json").read_text())
    assert kept["figures"] == evaluation.figures
    assert "kNN k=20" in str(evaluation)


def test_a_share_is_held_out_and_said_to_have_been_seen(tmp_path: Path) -> None:
    images, labels = tiny.images(60), np.arange(60) % 3
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    run = sc.train(tmp_path / "x.npz", out=tmp_path / "run", **{**tiny.SETTINGS, "epochs": 1})
    assert "seen in training (without labels)" in " ".join(evaluate(run).notes)
    held = sc.train(tmp_path / "x.npz", out=tmp_path / "held", test_share=0.2, **{**tiny.SETTINGS, "epochs": 1})
    notes = " ".join(evaluate(held).notes)
    assert "kept out of training" in notes
    assert "clusters of these 12 images" in notes


def test_other_labelled_data_and_its_test_set(folder: Path, tmp_path: Path) -> None:
    run = sc.train(tiny.images(), out=tmp_path / "run", **{**tiny.SETTINGS, "epochs": 1})
    figures = evaluate(run, str(folder / "train"), test=str(folder / "val")).figures
    assert figures["raw pixels"]["eval/knn_top1_k20"] == 1.0
    with pytest.raises(sc.DataError, match="no labels"):
        evaluate(run, tiny.images())
