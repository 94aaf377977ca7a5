"""DeepCluster-v2 and SeLa-v2: labels from the bank for each head, prototypes by k-means or by gradient."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from selfcluster import distributed, randomness
from selfcluster.clustering import metrics
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.sinkhorn import log_potentials
from selfcluster.data.dataset import Data
from selfcluster.data.loader import Batch
from selfcluster.data.sources import open_data
from selfcluster.errors import CollapseError, ConfigError, DataError
from selfcluster.methods import sela_v2
from selfcluster.methods.bank import BankMethod
from selfcluster.methods.base import Extractor, PseudoLabels
from selfcluster.methods.deepcluster_v2 import DeepClusterV2
from selfcluster.methods.sela_v2 import SelaV2
from selfcluster.models.model import Outputs
from selfcluster.models.rows import Rows
from selfcluster.settings.config import DataSettings
from selfcluster.training import loop, step
from selfcluster.training.extraction import extractor
from selfcluster.training.state import Training
from tests import reference, tiny
from tests.clustering.test_sinkhorn import _Largest
from tests.ranks import on_ranks

BOTH = pytest.mark.parametrize("method", ["deepcluster-v2", "sela-v2"])
HEADS = (8, 6, 8)
"""tiny's; the first and the third share a bank."""


def _training(method: str, given: Data | None = None, **settings: Any) -> tuple[Training, Any]:
    t = tiny.training(given, method, **settings)
    assert isinstance(t.method, BankMethod)
    return t, t.method


def _extract(t: Training, epoch: int = 0) -> Extractor:
    return extractor(t, epoch, tiny.Silent(), None)


def _centroids(t: Training) -> Tensor:
    return t.model.prototypes.weight.detach().clone()


# ---- first labels from patches ------------------------------------------------------------------------------------------------


@BOTH
def test_first_labels_are_clusters_of_patches_and_last_for_their_epochs(method: str) -> None:
    t, m = _training(method, first_labels="patches", first_label_epochs=2)
    asked: list[str] = []

    def extract(what: str, **how: Any) -> Rows:
        asked.append(what)
        return _extract(t)(what, **how)  # type: ignore[arg-type]

    m.begin_epoch(0, extract)
    first = m.labels.whole.clone()
    rows = _extract(t)("patches")
    assert rows.values.shape == (len(t.method.trained_on), 512)
    seeds = [randomness.seed_from(t.config.run.seed, head, 0xB1) for head in range(3)]
    for head, k in enumerate(HEADS):
        found = kmeans(torch.as_tensor(rows.values[:, :256]), k, spherical=True, seed=seeds[head])
        assert metrics.nmi(found.assignments.numpy(), first[head].numpy()) > 0.9
        of_head = m.prototypes.heads()[head]
        leading = normalize(found.centroids[:, : of_head.shape[1]])
        assert cosine_similarity(of_head[:, None], leading, dim=2).amax(dim=1).min() > 0.9, "the prototypes are the centroids, in any order"
    m.begin_epoch(1, extract)
    assert torch.equal(m.labels.whole, first)
    assert asked == ["patches"], "nothing goes through the untrained network"
    m.begin_epoch(2, extract)
    assert asked == ["patches", "embeddings"]
    assert not torch.equal(m.labels.whole, first)


@BOTH
def test_there_is_no_bank_if_the_first_labels_are_never_renewed(method: str) -> None:
    t, m = _training(method, first_labels="patches", first_label_epochs=0)
    loop.fit(t, tiny.Silent(), None)
    assert m.bank is None
    assert list(m.state_dict()) == ["pseudo_labels"]


# ---- the bank and the labels --------------------------------------------------------------------------------------------------


@BOTH
def test_only_the_first_bank_needs_a_pass_in_train_mode(method: str) -> None:
    t, m = _training(method)
    rows = _extract(_training(method)[0])("embeddings", view="assign", train_mode=True)
    assert not m.bank.is_begun
    m.begin_epoch(0, _extract(t))
    for crop in range(2):
        values, index = m.bank.rows(crop)
        assert index.tolist() == list(range(36))
        assert np.array_equal(values.numpy(), rows.values[:, crop])
    m.begin_epoch(1, tiny.no_extract)


@BOTH
def test_the_bank_follows_training(method: str) -> None:
    t, m = _training(method)
    plan = m.begin_epoch(0, _extract(t))
    before = m.bank.global_state()["embeddings"]
    batch = next(iter(t.loader.epoch(0, plan)))
    out = t.model(batch.crops)
    m.after_update(out, batch, 0)
    after = m.bank.global_state()["embeddings"]
    rest = np.setdiff1d(np.arange(36), batch.index.numpy())
    assert torch.equal(after[:, batch.index], out.embeddings[:2].detach())
    assert torch.equal(after[:, rest], before[:, rest])
    assert not after.requires_grad


@BOTH
def test_heads_take_turns_over_the_banked_crops(method: str) -> None:
    """The first and the third head cluster the same bank, the second another."""
    t, m = _training(method)
    m.begin_epoch(0, _extract(t))
    seen: list[Tensor] = []
    cluster = m.cluster

    def recorded(head: int, embeddings: Tensor, epoch: int) -> Any:
        seen.append(embeddings)
        return cluster(head, embeddings, epoch)

    m.cluster = recorded
    m.begin_epoch(1, tiny.no_extract)
    assert torch.equal(seen[0], m.bank.rows(0)[0])
    assert torch.equal(seen[1], m.bank.rows(1)[0])
    assert torch.equal(seen[2], m.bank.rows(0)[0])
    assert not torch.equal(seen[0], seen[1])


@BOTH
def test_labels_are_recomputed_every_epoch_and_looked_up_by_index(method: str) -> None:
    t, m = _training(method)
    m.begin_epoch(0, _extract(t))
    first = m.labels.whole.clone()
    index = torch.tensor([30, 2, 2, 7])
    targets = m.assign(Outputs(torch.zeros(2, 4, 1), torch.zeros(4, 4, 16), []), Batch(index=index, crops=[]))
    assert [labels.tolist() for labels in targets.labels] == [first[head, index].tolist() for head in range(3)]
    assert float(targets.n_valid) == 4
    draw = torch.Generator().manual_seed(0)
    m.bank.write(torch.arange(36), normalize(torch.randn(2, 36, 16, generator=draw), dim=-1))
    plan = m.begin_epoch(1, tiny.no_extract)
    assert plan.figures["cluster/nmi_previous"] == pytest.approx(
        np.mean([metrics.nmi(a, b) for a, b in zip(first.numpy(), m.labels.whole.numpy(), strict=True)])
    )
    assert plan.figures["cluster/nmi_previous"] < 0.9
    assert sorted(plan.order) == list(range(36))


# ---- DeepCluster-v2 -----------------------------------------------------------------------------------------------------------


def test_labels_and_prototypes_are_those_of_spherical_k_means_on_the_bank() -> None:
    t, m = _training("deepcluster-v2")
    assert isinstance(m, DeepClusterV2)
    m.begin_epoch(3, _extract(t, 3))
    for head, k in enumerate(HEADS):
        values, _ = m.bank.rows(head % 2)
        found = kmeans(values, k, iterations=10, spherical=True, seed=randomness.seed_from(0, 3, head))
        assert torch.equal(m.labels.whole[head], found.assignments)
        assert torch.equal(m.prototypes.heads()[head], found.centroids)
    assert not torch.equal(m.labels.whole[0], m.labels.whole[2]), "each head starts from different rows"
    torch.testing.assert_close(_centroids(t).norm(dim=1), torch.ones(sum(HEADS)))


def test_centroids_are_not_trained() -> None:
    t, m = _training("deepcluster-v2", weight_decay=0.1)
    weight = t.model.prototypes.weight
    assert not weight.requires_grad
    assert all(p is not weight for o in t.optimizers.values() for group in o.param_groups for p in group["params"])
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), None, stop_at=1)
    after_one = _centroids(t)
    encoder = t.model.encoder.conv1.weight.detach().clone()
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), None, stop_at=4)
    assert torch.equal(_centroids(t), after_one)
    assert not torch.equal(t.model.encoder.conv1.weight, encoder)
    m.begin_epoch(1, tiny.no_extract)
    assert t.model.prototypes.weight is weight
    assert not torch.equal(_centroids(t), after_one)
    torch.testing.assert_close(_centroids(t).norm(dim=1), torch.ones(sum(HEADS)))


def test_fewer_distinct_points_than_centroids_are_reported() -> None:
    _, m = _training("deepcluster-v2", n_prototypes=(8, 4))
    z = normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))
    m.bank.write(torch.arange(36), z[torch.arange(36) % 5].expand(2, -1, -1))
    plan = m.begin_epoch(2, tiny.no_extract)
    assert plan.notes == ("epoch 2, head 0: the embeddings have fewer than 8 distinct values, so 3 clusters stay empty",)
    assert plan.figures["cluster/n_empty"] == 3
    assert all(len(set(zip(m.labels.whole[head].tolist(), np.arange(36) % 5, strict=True))) == 5 for head in range(2))


# ---- SeLa-v2 ------------------------------------------------------------------------------------------------------------------


def test_labels_are_the_largest_entries_of_balanced_codes() -> None:
    t, m = _training("sela-v2", tiny.data(200), batch=40)
    assert isinstance(m, SelaV2)
    plan = m.begin_epoch(0, _extract(t))
    assert plan.notes == ()
    for head, k in enumerate(HEADS):
        scores = m.bank.rows(head % 2)[0] @ m.prototypes.heads()[head].detach().T
        balance = log_potentials(lambda scores=scores: [scores], k, epsilon=0.05, iterations=1000, tolerance=0.01)  # type: ignore[misc]
        codes = torch.softmax(scores / 0.05 + balance.log_potentials, dim=1)
        assert torch.equal(codes.argmax(dim=1), m.labels.whole[head])
        sizes, unbalanced = (torch.bincount(labels, minlength=k) for labels in (m.labels.whole[head], scores.argmax(dim=1)))
        assert sizes.min() > 200 / k / 2
        assert sizes.max() < 200 / k * 1.6
        assert unbalanced.max() - unbalanced.min() > sizes.max() - sizes.min()


def test_scores_of_the_bank_are_never_all_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _, m = _training("sela-v2", n_prototypes=(30,))
    embeddings = normalize(torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)))
    whole, _ = m.cluster(0, embeddings, 0)
    monkeypatch.setattr(sela_v2, "_CHUNK_BYTES", 4 * 30 * 7)
    with _Largest() as largest:
        in_chunks, _ = m.cluster(0, embeddings, 0)
    assert torch.equal(in_chunks, whole)
    assert largest.n <= embeddings.numel() < 1000 * 30, "the bank itself, of which the chunks are views"


def test_prototypes_learn_from_the_first_step_and_stay_unit() -> None:
    t, m = _training("sela-v2")
    start = _centroids(t)
    m.begin_epoch(0, _extract(t))
    assert torch.equal(_centroids(t), start), "clustering does not change them"
    with pytest.raises(loop.Interrupted):
        loop.fit(t, tiny.Silent(), None, stop_at=1)
    assert ((_centroids(t) - start).norm(dim=1) > 1e-5).all()
    torch.testing.assert_close(_centroids(t).norm(dim=1), torch.ones(sum(HEADS)))


def test_a_run_that_does_not_meet_the_tolerance_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sela_v2, "_MAX_ITERATIONS", 1)
    t, _ = _training("sela-v2", epochs=1, n_prototypes=(8,))
    log = tiny.Silent()
    loop.fit(t, log, None)
    assert len(log.said) == 1
    assert log.said[0].startswith("epoch 0, head 0: Sinkhorn-Knopp stopped after 1 iterations with masses off by up to ")
    assert log.said[0].endswith("%; raise epsilon")
    assert "inf" not in log.said[0]


# ---- the loss -----------------------------------------------------------------------------------------------------------------


@BOTH
def test_loss_is_the_mean_over_heads_of_every_crops_cross_entropy(method: str) -> None:
    _, m = _training(method)
    draw = torch.Generator().manual_seed(0)
    scores = [torch.rand(4, 5, k, generator=draw, dtype=torch.float64) * 2 - 1 for k in HEADS]
    labels = [torch.tensor([k - 1, 0, -1, 2, 2]) for k in HEADS]
    out = Outputs(features=torch.zeros(2, 5, 1), embeddings=torch.zeros(4, 5, 16), scores=scores)
    loss = m.loss(out, PseudoLabels(labels, torch.tensor(4.0)))
    naive = [reference.pseudo_label_loss(s.numpy(), y.numpy(), 0.1) for s, y in zip(scores, labels, strict=True)]
    assert float(loss) == pytest.approx(np.mean(naive), rel=1e-6)
    none = m.loss(out, PseudoLabels([torch.full((5,), -1)] * 3, torch.tensor(0.0)))
    assert float(none) == 0


@BOTH
def test_images_never_visited_have_no_label_and_do_not_count(method: str, tmp_path: Path) -> None:
    data = tiny.folder_of_images(tmp_path, 30, broken=(3, 7))
    t, m = _training(method, data, workers=0, epochs=2)
    log = tiny.Silent()
    loop.fit(t, log, None)
    for head in range(3):
        assert np.flatnonzero(m.labels.of_head(head) < 0).tolist() == [3, 7]
    assert m.bank.rows(0)[1].tolist() == [i for i in range(30) if i not in (3, 7)]
    assert np.isfinite(log.losses()).all()
    targets = m.assign(Outputs(torch.zeros(2, 3, 1), torch.zeros(4, 3, 16), []), Batch(index=torch.tensor([3, 4, 7]), crops=[]))
    assert float(targets.n_valid) == 1
    assert targets.labels[1][[0, 2]].tolist() == [-1, -1]


def _loss_of_share() -> tuple[float, float]:
    """The first rank of two has one image with a label, the second all four."""
    _, m = _training("deepcluster-v2", n_prototypes=(6,))
    m.labels.whole[0] = torch.arange(36) % 6
    m.labels.whole[0, :3] = -1
    mine = distributed.shard_of(8)
    scores = torch.rand(4, 8, 6, generator=torch.Generator().manual_seed(0))[:, mine]
    out = Outputs(features=torch.zeros(2, len(scores[0]), 1), embeddings=torch.zeros(4, len(scores[0]), 16), scores=[scores])
    targets = m.assign(out, Batch(index=torch.arange(8)[mine], crops=[]))
    return float(m.loss(out, targets)), float(targets.n_valid)


def test_where_ranks_have_different_numbers_of_labels_their_mean_is_the_loss_of_the_joined_batch() -> None:
    loss, n_valid = _loss_of_share()
    left, right = on_ranks(_loss_of_share)
    assert n_valid == 5
    assert left[1] == right[1] == 2.5
    assert (left[0] + right[0]) / 2 == pytest.approx(loss, rel=1e-6)


# ---- errors and collapses ----------------------------------------------------------------------------------------------------------


@BOTH
def test_constant_embeddings_are_never_trained_on(method: str) -> None:
    t, _ = _training(method)
    with torch.no_grad():
        for p in t.model.encoder.parameters():
            p.zero_()
    log = tiny.Silent()
    with pytest.raises(CollapseError, match="collapsed: head 0 has the same embedding for all images at epoch 0; lower lr"):
        loop.fit(t, log, None)
    assert log.losses() == []


@BOTH
def test_images_that_are_all_the_same_are_a_collapse(method: str) -> None:
    same = open_data(np.full((32, 20, 20, 3), 128, dtype=np.uint8), DataSettings())
    t, _ = _training(method, same, jitter=0.0, grey=0.0, blur=0.0, flip=0.0)
    with pytest.raises(CollapseError, match="same embedding"):
        loop.fit(t, tiny.Silent(), None)


@BOTH
def test_embeddings_that_have_become_constant_are_found_at_the_next_epoch(method: str) -> None:
    t, m = _training(method)
    m.begin_epoch(0, _extract(t))
    z = normalize(torch.ones(16) + 1e-3 * torch.randn(2, 36, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    m.bank.write(torch.arange(36), z)
    with pytest.raises(CollapseError, match="at epoch 1"):
        m.begin_epoch(1, tiny.no_extract)


@BOTH
def test_a_collapse_can_be_a_warning(method: str) -> None:
    """Every head has one embedding and one cluster, and training continues."""
    t, m = _training(method, on_collapse="warn")
    m.bank.write(torch.arange(36), normalize(torch.ones(2, 36, 16), dim=-1))
    plan = m.begin_epoch(1, tiny.no_extract)
    assert len(plan.warnings) == 6
    assert plan.warnings[0].startswith("collapsed: head 0 has the same embedding for all images at epoch 1; lower lr")
    assert plan.warnings[1].startswith("collapsed: head 0 has one cluster for all images at epoch 1; lower lr")
    assert [len(set(m.labels.of_head(head))) for head in range(3)] == [1, 1, 1]
    losses = [float(step.step(t, batch).loss) for batch in t.loader.epoch(1, plan)]
    assert len(losses) == 4
    assert np.isfinite(losses).all()


def test_one_cluster_for_all_images_is_a_collapse() -> None:
    t, m = _training("sela-v2")
    with torch.no_grad():
        m.prototypes.heads()[1].copy_(torch.eye(16)[:1].expand(6, -1))
    with pytest.raises(CollapseError, match="head 1 has one cluster for all images at epoch 0"):
        m.begin_epoch(0, _extract(t))


@BOTH
def test_more_clusters_than_images_is_refused(method: str) -> None:
    with pytest.raises(ConfigError, match=r"n_prototypes 37 is more than the 36 images to train on"):
        _training(method, n_prototypes=(8, 37))
    _, m = _training(method, n_prototypes=(8, 20))
    readable = Rows(np.arange(18), np.random.default_rng(0).normal(size=(18, 2, 16)).astype(np.float32))
    with pytest.raises(DataError, match="18 readable images are fewer than the 20 clusters"):
        m.begin_epoch(0, lambda *_, **__: readable)


@BOTH
@pytest.mark.parametrize(
    "settings",
    [
        dict(n_prototypes=(8,)),
        dict(n_crops=(3, 1)),
        dict(n_crops=(1,), crop_pixels=(16,), area=((0.5, 1.0),)),
        dict(precision="bf16", crop_pixels=(32, 16), n_prototypes=(8,)),
        dict(optimizer="adamw", lr=1e-3, final_lr=0.0, warmup_epochs=1.0, n_prototypes=(8,)),
    ],
    ids=["one head", "three banks", "one crop", "bf16", "adamw"],
)
def test_variants_train(method: str, settings: dict[str, Any]) -> None:
    t, _ = _training(method, epochs=2, max_steps=5, log_steps=1, **settings)
    log = tiny.Silent()
    loop.fit(t, log, None)
    assert len(log.losses()) == 5
    assert np.isfinite(log.losses()).all()
    torch.testing.assert_close(_centroids(t).norm(dim=1), torch.ones(len(_centroids(t))))
