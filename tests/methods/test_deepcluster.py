"""k-means labels, a re-initialized top layer, uniform sampling, and the two trivial solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from selfcluster import optim
from selfcluster.clustering.kmeans import Clustering, kmeans, nearest
from selfcluster.data.dataset import Data
from selfcluster.data.loader import Batch
from selfcluster.data.sources import open_data
from selfcluster.errors import CollapseError, ConfigError, DataError
from selfcluster.methods import deepcluster
from selfcluster.methods.base import Extractor
from selfcluster.methods.deepcluster import DeepCluster, uniform_over_clusters
from selfcluster.models.model import Outputs
from selfcluster.models.rows import Rows
from selfcluster.settings.config import DataSettings
from selfcluster.training import loop
from selfcluster.training.extraction import extractor
from selfcluster.training.state import Training
from tests import tiny

K = 8


def _training(given: Data | None = None, **settings: Any) -> tuple[Training, DeepCluster]:
    t = tiny.training(given, "deepcluster", **settings)
    assert isinstance(t.method, DeepCluster)
    return t, t.method


def _extract(t: Training, epoch: int = 0) -> Extractor:
    return extractor(t, epoch, tiny.Silent(), None)


def _top(method: DeepCluster) -> Tensor:
    return method.top_layer.weight.detach().clone()


# ---- first labels from patches ------------------------------------------------------------------------------------------------


def test_first_labels_are_clusters_of_patches_and_the_top_layer_is_kept_while_they_last() -> None:
    t, method = _training(first_labels="patches", first_label_epochs=2)
    asked: list[str] = []

    def extract(what: str, **how: Any) -> Rows:
        asked.append(what)
        return _extract(t)(what, **how)  # type: ignore[arg-type]

    plan = method.begin_epoch(0, extract)
    assert plan.reset == ("prototypes.weight", "prototypes.bias")
    labels, top = method.labels.whole.clone(), _top(method)
    assert method.begin_epoch(1, extract).reset == ()
    assert torch.equal(method.labels.whole, labels)
    assert torch.equal(_top(method), top)
    assert method.begin_epoch(2, extract).reset
    assert asked == ["patches", "features"]


# ---- uniform sampling ---------------------------------------------------------------------------------------------------------

SIZES = [90, 9, 1, 0]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """100 images in clusters of these sizes, and 20 without a label, mixed."""
    return np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3, -1], [*SIZES, 20]))


@pytest.mark.parametrize(("n", "each"), [(100, 34), (1000, 334), (9, 4)])
def test_every_nonempty_cluster_gives_equally_many(labels: np.ndarray, n: int, each: int) -> None:
    drawn = uniform_over_clusters(labels, n, 0)
    counts = np.bincount(labels[drawn], minlength=4)
    assert len(drawn) == n
    assert counts.max() <= each
    assert counts[:3].min() >= each - (3 * each - n), "the rest was cut off"
    assert counts[3] == 0


@pytest.mark.parametrize("n", [100, 1000])
def test_images_without_a_label_are_never_drawn(labels: np.ndarray, n: int) -> None:
    for key in range(5):
        assert (labels[uniform_over_clusters(labels, n, key)] >= 0).all()
    everywhere = np.abs(labels)  # if every image has a label, none is lost
    assert set(everywhere[uniform_over_clusters(everywhere, n, 0)]) == {0, 1, 2}


def test_a_cluster_larger_than_its_draws_gives_different_images(labels: np.ndarray) -> None:
    drawn = uniform_over_clusters(labels, 100, 0)
    of_largest, of_middle = (drawn[labels[drawn] == cluster] for cluster in (0, 1))
    assert len(np.unique(of_largest)) == len(of_largest)
    assert 1 < len(np.unique(of_middle)) <= 9 < len(of_middle)
    assert len(np.unique(drawn[labels[drawn] == 2])) == 1


def test_draws_are_a_function_of_the_key_and_shuffled(labels: np.ndarray) -> None:
    assert np.array_equal(uniform_over_clusters(labels, 100, 3, 4), uniform_over_clusters(labels, 100, 3, 4))
    assert not np.array_equal(uniform_over_clusters(labels, 100, 3, 4), uniform_over_clusters(labels, 100, 3, 5))
    first_half = labels[uniform_over_clusters(labels, 100, 0)[:50]]
    assert set(first_half) == {0, 1, 2}


# ---- the plan of an epoch -----------------------------------------------------------------------------------------------------


def test_labels_are_those_of_k_means_on_whitened_features() -> None:
    t, method = _training()
    method.begin_epoch(0, _extract(t))
    assert method.whitening is not None
    assert method.centroids is not None
    whitened = method.whitening(torch.from_numpy(_extract(t)("features").values))
    torch.testing.assert_close(whitened.norm(dim=1), torch.ones(36))
    of_new_images, _ = nearest(whitened, method.centroids)
    assert np.array_equal(of_new_images.numpy(), method.labels.of_head(0))
    assert sorted(set(method.labels.of_head(0))) == list(range(K))


def test_the_start_of_k_means_is_a_function_of_seed_and_epoch() -> None:
    found = []
    for seed, epoch in [(0, 0), (0, 0), (0, 1), (1, 0)]:
        t, method = _training(tiny.data(), seed=seed)
        _, other = _training(tiny.data())
        t.model.encoder.load_state_dict(other.model.encoder.state_dict())
        method.begin_epoch(epoch, _extract(t, epoch))
        found.append(method.labels.of_head(0))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[3])


def test_ninety_percent_in_one_cluster_are_a_third_of_the_epoch() -> None:
    _, method = _training(tiny.data(100), n_prototypes=3)
    points = np.random.default_rng(0).normal(size=(3, 128)).astype(np.float32)
    in_cluster = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [90, 9, 1]))

    def extract(*_: Any, **__: Any) -> Rows:
        return Rows(np.arange(100), points[in_cluster])

    plan = method.begin_epoch(0, extract)
    assert plan.figures["cluster/largest_share"] == pytest.approx(0.9)
    assert np.bincount(in_cluster[plan.order]).tolist() == pytest.approx([33, 33, 33], abs=1)
    assert len(plan.order) == 100
    assert sorted(plan.occurrence[in_cluster[plan.order] == 2]) == list(range((in_cluster[plan.order] == 2).sum()))


def test_the_top_layer_is_reinitialized_as_a_function_of_seed_and_epoch() -> None:
    def top(seed: int, epoch: int) -> Tensor:
        t, method = _training(seed=seed)
        with torch.no_grad():
            method.top_layer.bias.fill_(7)
        torch.rand(5)
        plan = method.begin_epoch(epoch, _extract(t, epoch))
        assert plan.reset == ("prototypes.weight", "prototypes.bias")
        assert t.parameters_named(plan.reset) == list(method.top_layer.parameters())
        assert (method.top_layer.bias == 0).all()
        return _top(method)

    first = top(0, 0)
    assert float(first.std()) == pytest.approx(0.01, rel=0.1)
    assert float(first.mean()) == pytest.approx(0, abs=0.001)
    assert torch.equal(first, top(0, 0))
    assert not torch.equal(first, top(0, 1))
    assert not torch.equal(first, top(1, 0))


@pytest.mark.parametrize("optimizer", ["sgd", "lars"])
def test_the_top_layer_has_its_own_parameter_group(optimizer: str) -> None:
    t, method = _training(optimizer=optimizer, top_lr=0.07, lr=0.3, final_lr=0.1, weight_decay=1e-3)
    assert set(t.optimizers) == {"sgd", optimizer}
    groups = {group["name"]: group for o in t.optimizers.values() for group in o.param_groups}
    assert groups["top layer"]["params"] == list(method.top_layer.parameters())
    assert [id(p) for p in groups["encoder"]["params"]] == [id(p) for p in t.model.encoder.parameters()]
    assert (groups["top layer"]["momentum"], groups["encoder"]["momentum"]) == (0.0, 0.9)
    assert groups["top layer"]["weight_decay"] == groups["encoder"]["weight_decay"] == 1e-3
    assert [optim.set_lr(t.optimizers, step) for step in (0, 8)] == pytest.approx([0.3, 0.2])
    assert groups["top layer"]["lr"] == 0.07
    assert groups["top layer"] in t.optimizers["sgd"].param_groups


def test_reassign_epochs_clusters_every_second_epoch_and_keeps_the_top_layer_in_between() -> None:
    t, method = _training(reassign_epochs=2)
    plans, tops, labels = [], [], []
    for epoch in range(4):
        plans.append(method.begin_epoch(epoch, _extract(t, epoch) if epoch % 2 == 0 else tiny.no_extract))
        tops.append(_top(method))
        labels.append(method.labels.of_head(0))
        with torch.no_grad():  # as training would
            for p in t.model.parameters():
                p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(epoch)))
    assert [bool(plan.reset) for plan in plans] == [True, False, True, False]
    assert [bool(plan.figures) for plan in plans] == [True, False, True, False]
    assert torch.allclose(tops[1], tops[0], rtol=0, atol=0.06)
    assert float(tops[2].std()) == pytest.approx(0.01, rel=0.1)
    assert np.array_equal(labels[0], labels[1])
    assert np.array_equal(labels[2], labels[3])
    assert not np.array_equal(labels[1], labels[2])
    assert not np.array_equal(plans[0].order, plans[1].order), "each epoch has its own draws"


def test_figures_of_every_clustering_are_logged() -> None:
    t, _ = _training(reassign_epochs=2, epochs=5)
    log = tiny.Silent()
    loop.fit(t, log, None)
    rows = [row for row in log.rows if "cluster/n_empty" in row]
    sizes = {"cluster/n_empty", "cluster/largest_share", "cluster/size_smallest", "cluster/size_median", "cluster/size_largest"}
    assert [row["epoch"] for row in rows] == [0, 2, 4]
    assert [row["step"] for row in rows] == [0, 8, 16]
    assert set(rows[0]) == {"step", "epoch", "train/assign_seconds", *sizes}
    for row in rows[1:]:
        assert set(row) == {"step", "epoch", "train/assign_seconds", "cluster/nmi_previous", *sizes}
        assert 0 < row["cluster/nmi_previous"] <= 1
        assert 1 <= row["cluster/size_smallest"] <= row["cluster/size_median"] <= row["cluster/size_largest"]
        assert row["cluster/largest_share"] == pytest.approx(row["cluster/size_largest"] / 36)


# ---- assign and loss ----------------------------------------------------------------------------------------------------------


def test_loss_is_the_cross_entropy_over_the_clusters_that_hold_images() -> None:
    _, method = _training()
    method.n_labels = 5
    method.labels.whole[0, :4] = torch.tensor([4, 0, -1, 2])
    scores = torch.randn(2, 4, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = Outputs(features=torch.zeros(2, 4, 3), embeddings=torch.zeros(2, 4, 3), scores=[scores])
    targets = method.assign(out, Batch(index=torch.tensor([0, 1, 2, 3]), crops=[]))
    assert targets.labels[0].tolist() == [4, 0, -1, 2]
    assert float(targets.n_valid) == 3
    loss = method.loss(out, targets)
    wanted = torch.stack([cross_entropy(scores[c, i, :5], torch.tensor(label)) for c in range(2) for i, label in [(0, 4), (1, 0), (3, 2)]])
    torch.testing.assert_close(loss, wanted.mean())
    loss.backward()
    assert scores.grad is not None
    assert (scores.grad[..., 5:] == 0).all()
    assert (scores.grad[:, 2] == 0).all()


# ---- the trivial solutions ----------------------------------------------------------------------------------------------------


def test_fewer_distinct_points_than_clusters_train_on_as_many_labels_and_are_reported() -> None:
    t, method = _training(open_data(tiny.images(5)[np.arange(40) % 5], DataSettings()), n_prototypes=10, epochs=2)
    log = tiny.Silent()
    loop.fit(t, log, None)
    labels = method.labels.of_head(0)
    assert method.n_labels == 5
    assert len(np.unique(labels[:5])) == 5
    assert np.array_equal(labels, np.tile(labels[:5], 8)), "equal images have equal labels"
    assert sorted(labels[:5]) == list(range(5)), "labels are contiguous"
    assert log.said == [f"epoch {epoch}: the features have 5 distinct values, so 5 of 10 clusters stay empty" for epoch in (0, 1)]
    assert [row["cluster/n_empty"] for row in log.rows if "cluster/n_empty" in row] == [5, 5]
    assert max(log.losses()) < np.log(10) - 0.3, "the loss is over five clusters"


@pytest.mark.parametrize("dead", ["everything", "last batch norms"])
def test_a_constant_encoder_is_never_trained_on(dead: str) -> None:
    t, _ = _training()
    with torch.no_grad():
        if dead == "everything":
            for p in t.model.encoder.parameters():
                p.zero_()
        else:
            block = t.model.encoder.layer4[-1]
            for p in (*block.bn2.parameters(), *block.downsample[1].parameters()):
                p.fill_(0.5)
            block.bn2.weight.zero_()
            block.downsample[1].weight.zero_()
    before = {name: p.detach().clone() for name, p in t.model.named_parameters()}
    log = tiny.Silent()
    with pytest.raises(CollapseError, match=r"collapsed: the features of all images are the same .* at epoch 0; lower lr"):
        loop.fit(t, log, None)
    assert log.losses() == []
    assert all(torch.equal(p, before[name]) for name, p in t.model.named_parameters())


def test_constant_features_can_be_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepcluster, "_CONSTANT", 10.0)  # so that these features, which can still be clustered, count as constant
    t, _ = _training(on_collapse="warn", max_steps=2)
    log = tiny.Silent()
    loop.fit(t, log, None)
    assert t.state.step == 2
    assert [message.split(";")[0] for message in log.warned] == [
        f"collapsed: the features of all images are the same to {t.method.whitening.spread:.1e} of their length at epoch 0"
    ]


def test_one_label_cannot_be_a_warning() -> None:
    """The loss over a single label is always 0."""
    t, _ = _training(open_data(np.full((32, 20, 20, 3), 128, dtype=np.uint8), DataSettings()), on_collapse="warn")
    with pytest.raises(CollapseError, match="k-means finds one cluster for all images at epoch 0"):
        loop.fit(t, tiny.Silent(), None)


def test_a_network_that_collapses_later_is_stopped_at_the_next_clustering() -> None:
    t, _ = _training()
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), None, stop_at=4)
    t.state.epoch, t.state.step_in_epoch = 1, 0
    with torch.no_grad():
        for p in t.model.encoder.parameters():
            p.zero_()
    with pytest.raises(CollapseError, match="at epoch 1"):
        loop.fit(t, tiny.Silent(), None)
    assert t.state.step == 4


def test_one_label_left_is_a_collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our k-means fills empty clusters, so a different one is needed here."""

    def everything_in_one(points: np.ndarray, k: int, **settings: Any) -> Clustering:
        found = kmeans(points, k, **settings)
        sizes = torch.tensor([0, 0, len(points)] + [0] * (k - 3))
        return Clustering(found.centroids, torch.full((len(points),), 2), sizes, found.inertia, found.n_reassigned, k - 1)

    monkeypatch.setattr(deepcluster, "kmeans", everything_in_one)
    t, _ = _training()
    with pytest.raises(CollapseError, match="one cluster for all images at epoch 0"):
        loop.fit(t, tiny.Silent(), None)
    assert t.state.step == 0


def test_more_clusters_than_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"n_prototypes 37 is more than the 36 images to train on; set --n-prototypes 3 or so"):
        _training(n_prototypes=37)
    broken = tiny.folder_of_images(tmp_path, 12, broken=(1, 2, 3))
    t, _ = _training(broken, n_prototypes=10, max_broken_share=0.5)
    with pytest.raises(DataError, match="9 readable images are fewer than the 10 clusters; set --n-prototypes 2 or less"):
        loop.fit(t, tiny.Silent(), None)


# ---- variants -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        dict(sobel=True),
        dict(dropout=0.5),
        dict(optimizer="lars", lr=0.5, final_lr=0.01),
        dict(optimizer="adamw", lr=1e-3, final_lr=1e-3),
        dict(n_crops=(2, 2), crop_pixels=(16, 8), area=((0.5, 1.0), (0.2, 0.5))),
        dict(precision="bf16", crop_pixels=(32,)),
        dict(features_gib=0.0, pca_width=4),
        dict(clip_norm=0.5),
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_variants_train(tmp_path: Path, settings: dict[str, Any]) -> None:
    t, method = _training(epochs=2, max_steps=6, log_steps=1, **settings)
    log = tiny.Silent()
    loop.fit(t, log, tmp_path)
    assert len(log.losses()) == 6
    assert np.isfinite(log.losses()).all()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    if "sobel" in settings:
        assert t.model.encoder.conv1.weight.shape[1] == 2
    if "pca_width" in settings:
        assert method.centroids is not None
        assert method.centroids.shape == (K, 4)


def test_dropout_applies_in_training_only() -> None:
    t, _ = _training(dropout=0.5)
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    t.model.train()
    out = t.model([pixels])
    assert (out.embeddings == 0).float().mean() > 0.4
    t.model.eval()
    assert torch.equal(t.model.project(pixels), t.model.encode(pixels))


def test_clusters_of_one_size_show_every_image() -> None:
    drawn = uniform_over_clusters(np.arange(300) % 3, 300, 5)
    assert len(np.unique(drawn)) >= 297  # three are cut off
    assert np.bincount(drawn, minlength=300).max() == 2


def test_a_small_cluster_shows_all_its_images_equally_often() -> None:
    labels = np.repeat([0, 1], [90, 10])
    times = np.bincount(uniform_over_clusters(labels, 100, 7), minlength=100)
    assert set(times[90:]) <= {4, 5, 6}
    assert times[:90].max() == 1
