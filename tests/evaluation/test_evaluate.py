from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import selfcluster as sc
from selfcluster.evaluation import clusters, knn
from tests import tiny

RNG = np.random.default_rng(0)


def _blobs(n: int, classes: int = 3) -> tuple[torch.Tensor, np.ndarray]:
    labels = np.arange(n) % classes
    centers = torch.eye(8)[:classes] * 5
    return centers[labels] + 0.3 * torch.from_numpy(RNG.standard_normal((n, 8))).float(), labels.astype(np.int64)


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
    figures = dict(knn.measure(train, labels, test, wanted, ks=(k,)))
    assert figures["eval/knn_top1_k5"] == pytest.approx(right / 20)
    assert figures["eval/knn_top1_k5_se"] == pytest.approx((right / 20 * (1 - right / 20) / 20) ** 0.5, rel=0.1)


@pytest.mark.parametrize(("n", "ks"), [(300, (20, 200)), (150, (20, 150)), (20, (20,)), (12, (12,))])
def test_every_figure_is_named_by_the_k_that_made_it(n: int, ks: tuple[int, ...]) -> None:
    features, labels = torch.eye(n), np.arange(n) // (n - 1)  # the smallest class, which does not matter, has one image
    figures = dict(knn.measure(features, labels, features, labels))
    assert [name for name in figures if not name.endswith("_se")] == [f"eval/knn_top1_k{k}" for k in ks]


def test_clusters_of_separate_blobs_are_the_classes() -> None:
    names = [f"cluster/{name}" for name in ("accuracy", "purity", "nmi", "ami", "ari")]
    wanted = {name: pytest.approx(1) for name in names} | {f"{name}_se": pytest.approx(0) for name in names}
    assert dict(clusters.measure(*_blobs(90))) == wanted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and val/ of three classes that are distinguished by color, a broken image in each."""
    root, draw = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    for part, n in (("train", 24), ("val", 6)):
        for name, color in (("red", (255, 60, 60)), ("green", (60, 255, 60)), ("blue", (60, 60, 255))):
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                noise = draw.integers(0, 60, (20, 20, 3))
                Image.fromarray((np.array(color) * 0.7 + noise).astype(np.uint8)).save(root / part / name / f"{i}.png")
        (root / part / "red" / "broken.png").write_bytes(b"no")
    return root


def test_splits_are_recognized_and_every_table_has_its_baselines(folder: Path, tmp_path: Path) -> None:
    run = sc.train(folder, out=tmp_path / "run", workers=0, **{**tiny.SETTINGS, "epochs": 1, "threads": 1})
    evaluation = run.evaluate(only=["knn", "clusters"])
    assert list(evaluation.figures) == ["raw pixels", "patches", "pretrained encoder", "untrained encoder", "trained encoder"]
    for name, least in {"raw pixels": 1.0, "patches": 1.0, "pretrained encoder": 0.9}.items():
        assert evaluation.figures[name]["eval/knn_top1_k20"] >= least
        assert evaluation.figures[name]["cluster/accuracy"] >= least
    notes = " ".join(evaluation.notes)
    assert "tested on 18 images of the test split" in notes or "tested on 19 images of the test split" in notes
    assert "1 unreadable images are left out" in notes
    assert "centered by their mean over the training images" in notes
    assert "eval/knn_top1_k72" in evaluation.figures["trained encoder"]
    assert "eval/knn_top1_k200" not in evaluation.figures["trained encoder"]
    kept = json.loads((run.path / "evaluation.json").read_text())
    assert kept["figures"] == evaluation.figures
    assert re.search("kNN k=20 +kNN k=72", str(evaluation))


def test_a_share_is_held_out_and_reported_as_seen(tmp_path: Path) -> None:
    images, labels = tiny.images(60), np.arange(60) % 3
    np.savez(tmp_path / "x.npz", images=images, labels=labels)
    run = sc.train(tmp_path / "x.npz", out=tmp_path / "run", **{**tiny.SETTINGS, "epochs": 1, "threads": 1})
    assert "seen in training (without labels)" in " ".join(run.evaluate(only=["knn"]).notes)
    held = sc.train(tmp_path / "x.npz", out=tmp_path / "held", test_share=0.2, **{**tiny.SETTINGS, "epochs": 1, "threads": 1})
    notes = " ".join(held.evaluate(only=["knn"]).notes)
    assert "held out of training" in notes
    assert "clusters of these 12 images" in notes


def test_other_labeled_data_and_its_test_set(folder: Path, tmp_path: Path) -> None:
    run = sc.train(tiny.images(), out=tmp_path / "run", **{**tiny.SETTINGS, "epochs": 1, "threads": 1})
    figures = run.evaluate(str(folder / "train"), test=str(folder / "val"), only=["knn"]).figures
    assert figures["raw pixels"]["eval/knn_top1_k20"] == 1.0


def test_shuffled_labels_score_chance() -> None:
    train, labels = _blobs(300)
    test, wanted = _blobs(300)
    figures = dict(knn.measure(train, RNG.permutation(labels), test, wanted, ks=(20,)))
    assert figures["eval/knn_top1_k20"] == pytest.approx(1 / 3, abs=0.15)
    figures = dict(clusters.measure(train, RNG.permutation(labels)))
    assert figures["cluster/ami"] == pytest.approx(0, abs=0.03)
    assert 0 < figures["cluster/ami_se"] < 0.03
    assert 1 / 3 < figures["cluster/purity"] < 0.5


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder without labels, with a broken image."""
    root = tmp_path_factory.mktemp("flat")
    tiny.folder_of_images(root, 40, broken=(3,))
    return root


@pytest.fixture(scope="module")
def unlabeled(flat: Path, tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    return sc.train(flat, out=tmp_path_factory.mktemp("runs") / "run", workers=0, **{**tiny.SETTINGS, "epochs": 2, "threads": 1})


LABEL_FREE = {"collapse/rankme", "eval/silhouette", "eval/view_top1", "eval/neighbor_overlap"}
OF_PROTOTYPES = {"collapse/prototypes_used", "collapse/prototypes_share"}


def _names(figures: dict[str, float]) -> set[str]:
    return {name for name in figures if not name.endswith("_se")}


def test_without_labels_only_metrics_without_labels_are_computed(unlabeled: sc.Run) -> None:
    evaluation = unlabeled.evaluate()
    assert _names(evaluation.figures["raw pixels"]) == LABEL_FREE
    assert _names(evaluation.figures["trained encoder"]) == LABEL_FREE | OF_PROTOTYPES
    assert 0 < evaluation.figures["trained encoder"]["collapse/prototypes_share"] <= 1
    notes = " ".join(evaluation.notes)
    assert "there are no labels: only metrics without labels are computed" in notes
    assert "all 40 images" in notes
    assert "1 unreadable images are left out" in notes
    assert "39 images, silhouette of 20 clusters" in notes
    assert "centered by their mean over the evaluated images" in notes
    assert evaluation.figures == json.loads((unlabeled.path / "evaluation.json").read_text())["figures"]


def test_without_labels_evaluators_that_need_them_are_refused_if_asked_for(unlabeled: sc.Run) -> None:
    with pytest.raises(sc.DataError, match=r"cannot evaluate knn, linear: there are no labels in .*; give --labels FILE.csv"):
        unlabeled.evaluate(only=("linear", "knn"))
    with pytest.raises(sc.DataError, match="cannot evaluate finetune: there are no labels"):
        unlabeled.evaluate(only=("finetune",))
    assert _names(unlabeled.evaluate(only=("knn", "label-free")).figures["raw pixels"]) == LABEL_FREE


def test_labels_of_one_class_are_no_labels(unlabeled: sc.Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=tiny.images(30), labels=np.zeros(30, dtype=int))
    evaluation = unlabeled.evaluate(tmp_path / "one.npz")
    assert "the labels name fewer than two classes" in " ".join(evaluation.notes)
    assert _names(evaluation.figures["raw pixels"]) == LABEL_FREE


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    folder = tmp_path_factory.mktemp("labeled")
    np.savez(folder / "toys.npz", images=tiny.images(60), labels=np.arange(60) % 3)
    return sc.train(folder / "toys.npz", out=folder / "run", **{**tiny.SETTINGS, "epochs": 1, "threads": 1})


def test_with_labels_everything_but_fine_tuning_is_computed(labeled: sc.Run) -> None:
    figures = labeled.evaluate().figures["trained encoder"]
    against = {f"eval/{name}" for name in ("knn_top1_k20", "knn_top1_k48", "linear_top1", "linear_strength", "retrieval_map")}
    of_clusters = {f"cluster/{name}" for name in ("accuracy", "purity", "nmi", "ami", "ari")}
    assert _names(figures) == against | {"eval/retrieval_recall1"} | of_clusters | LABEL_FREE | OF_PROTOTYPES
    with_errors = _names(figures) - {"eval/linear_strength", "collapse/rankme"} - OF_PROTOTYPES
    assert {name.removesuffix("_se") for name in figures if name.endswith("_se")} == with_errors


def test_images_are_read_once_for_each_representation(labeled: sc.Run, caplog: pytest.LogCaptureFixture) -> None:
    labeled.evaluate()
    said = "\n".join(caplog.messages)
    for name in ("raw pixels", "patches", "pretrained encoder", "untrained encoder", "trained encoder"):
        assert f"\n{said}".count(f"\n{name}: 60 images in ") == 1
        assert f"{name}: linear in " in said


def test_evaluators_run_one_after_the_other_are_merged(labeled: sc.Run) -> None:
    file = labeled.path / "evaluation.json"
    file.unlink(missing_ok=True)
    assert _names(labeled.evaluate(only=("retrieval",)).figures["raw pixels"]) == {"eval/retrieval_map", "eval/retrieval_recall1"}
    both = labeled.evaluate(only=("knn",))
    assert {"eval/retrieval_map", "eval/knn_top1_k20"} <= both.figures["raw pixels"].keys()
    assert json.loads(file.read_text())["figures"] == both.figures
    other_share = labeled.evaluate(only=("knn",), test_share=0.5)
    assert "eval/retrieval_map" not in other_share.figures["raw pixels"], "results on other test images do not share a table"


def test_fine_tuning_is_done_on_request(labeled: sc.Run) -> None:
    evaluation = labeled.evaluate(only=("finetune",), finetune_minutes=0.002)
    assert "eval/finetune_10_top1" not in evaluation.figures["raw pixels"]
    for name in ("pretrained encoder", "untrained encoder", "trained encoder"):
        assert 0 <= evaluation.figures[name]["eval/finetune_1_top1"] <= 1
    assert "had time for" in " ".join(evaluation.notes)
    assert "10 % of labels" in str(evaluation)


def test_other_data_are_noted_and_saved_separately(labeled: sc.Run, folder: Path, flat: Path) -> None:
    own = labeled.evaluate(only=("knn",))
    before = own.file.read_bytes()
    other = labeled.evaluate(str(folder), only=("knn",))
    assert other.file == labeled.path / f"evaluation-{folder.name}.json"
    assert other.notes[0].startswith("transfer: the encoder was trained on ")
    assert str(folder) in other.notes[0]
    assert labeled.evaluate(str(flat)).file.name == f"evaluation-{flat.name}.json"
    assert own.file.read_bytes() == before


def test_the_runs_own_data_given_by_name_are_its_own(labeled: sc.Run) -> None:
    evaluation = labeled.evaluate(labeled.opened.images, only=("knn",))
    assert evaluation.file.name == "evaluation.json"
    assert evaluation.figures == labeled.evaluate(only=("knn",)).figures


def test_an_array_given_again_is_recognized_by_its_content(tmp_path: Path) -> None:
    run = sc.train(tiny.images(), out=tmp_path / "run", **{**tiny.SETTINGS, "epochs": 1, "threads": 1})
    assert run.evaluate(tiny.images()).file.name == "evaluation.json"
    assert run.evaluate(tiny.images(seed=1)).file.name == "evaluation-array.json"


def test_overwriting_a_run_removes_its_evaluations(tmp_path: Path) -> None:
    settings = {**tiny.SETTINGS, "epochs": 1, "threads": 1}
    run = sc.train(tiny.images(), out=tmp_path / "run", **settings)
    run.evaluate(tiny.images(seed=1))
    sc.train(tiny.images(), out=tmp_path / "run", overwrite=True, **settings)
    assert not list((tmp_path / "run").glob("evaluation*"))


def test_wrong_arguments_are_refused(labeled: sc.Run) -> None:
    with pytest.raises(sc.ConfigError, match="unknown evaluator 'knm'; did you mean 'knn'"):
        labeled.evaluate(only=("knm",))
    with pytest.raises(sc.ConfigError, match="finetune_minutes 0 must be above 0"):
        labeled.evaluate(finetune=True, finetune_minutes=0)
