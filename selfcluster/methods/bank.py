"""The common part of DeepCluster-v2 and SeLa-v2: pseudo-labels from a memory bank, predicted by every crop.

The bank keeps the embeddings that training computes anyway, one for each assign crop of each image, and they are clustered between epochs.
Only before the first epoch is there a pass over the images just for clustering.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import distributed, randomness
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.neighbor_graph import sample_rows, spectral_centroids
from selfcluster.data.loader import Batch, EpochPlan
from selfcluster.methods.base import Extractor, Method, PseudoLabels, stop_or_warn
from selfcluster.methods.losses import pseudo_label_loss
from selfcluster.methods.memory import MemoryBank
from selfcluster.methods.pseudo_labels import PseudoLabelTable, check_clusters, require_enough
from selfcluster.models.heads import Center, Prototypes
from selfcluster.models.model import ClusterModel, Outputs
from selfcluster.models.rows import map_rows
from selfcluster.settings.config import Config, keeps_first_labels, renews_labels

_CONSTANT = 1 - 1e-4
"""Squared length of the mean embedding above which the embeddings are constant but for rounding."""

_GRAPH_ROWS = 20_000
"""Images whose graph of neighbors is clustered for the first labels; the others are assigned to its clusters."""

_COMPONENTS = 256
"""Leading components of the features of patches that are clustered for the first labels; the others are mostly noise."""

_PATCHES = 0xB1
"""Key of the random draws."""

_ADVICE = "lower lr, soften the crops (area, augmentation), or use fewer prototypes"


class BankMethod(Method[PseudoLabels]):
    """Several heads, each with its own prototypes and labels; head h clusters the bank of assign crop h modulo their number."""

    prototypes: Prototypes

    def __init__(self, config: Config[Any], model: ClusterModel, trained_on: NDArray[np.int64], **steps: int) -> None:
        super().__init__(config, model, trained_on, **steps)
        check_clusters(config.n_prototypes, len(trained_on))
        assert isinstance(model.prototypes, Prototypes)
        self.prototypes, device = model.prototypes, model.prototypes.weight.device
        self.bank: MemoryBank | None = None
        """None if the first labels are never renewed."""
        if renews_labels(config.objective):
            self.bank = MemoryBank(trained_on, n_assign=model.n_assign, width=self.prototypes.weight.shape[1], device=device)
        self.labels = PseudoLabelTable(len(config.n_prototypes), trained_on, device)

    @abc.abstractmethod
    def cluster(self, head: int, embeddings: Float[Tensor, "n d"], epoch: int) -> tuple[Tensor, tuple[str, ...]]:
        """Return the cluster of each of this rank's embeddings, and notes for the user; collective."""

    def begin_epoch(self, epoch: int, extract: Extractor) -> EpochPlan:
        """Cluster the bank once for each head; the first bank is filled by one pass in train mode.

        In eval mode, with the initial running statistics, embeddings would be nearly collinear. First labels from patches need no bank.
        """
        order, settings = super().begin_epoch(epoch, extract).order, self.config.objective
        if keeps_first_labels(settings, epoch):
            if epoch > 0:
                return EpochPlan(order)
            label = self._label_by_patches if settings.first_labels == "patches" else self._label_by_neighbors
            return EpochPlan(order, figures=label(extract))
        assert self.bank is not None
        if not self.bank.is_begun:
            self.bank.fill(extract("embeddings", view="assign", train_mode=True))
        assigned, sizes, notes, warnings = [], [], [], []
        on_collapse = self.config.health.on_collapse
        for head, k in enumerate(self.config.n_prototypes):
            embeddings, index = self.bank.rows(head)
            require_enough(len(embeddings), k)
            mean = distributed.all_reduce_sum(embeddings.sum(dim=0)) / distributed.total(len(embeddings))
            if float(mean.square().sum()) > _CONSTANT:
                warnings.append(
                    stop_or_warn(f"collapsed: head {head} has the same embedding for all images at epoch {epoch}; {_ADVICE}", on_collapse)
                )
            assignments, of_clustering = self.cluster(head, embeddings, epoch)
            of_head = distributed.all_reduce_sum(torch.bincount(assignments, minlength=k))
            if int((of_head > 0).sum()) < 2:
                warnings.append(
                    stop_or_warn(f"collapsed: head {head} has one cluster for all images at epoch {epoch}; {_ADVICE}", on_collapse)
                )
            assigned.append(assignments)
            sizes.append(of_head)
            notes += [f"epoch {epoch}, head {head}: {note}" for note in of_clustering]
        figures = self.labels.update(assigned, index.numpy(), sizes)
        return EpochPlan(order, figures=figures, notes=tuple(notes), warnings=tuple(warnings))

    @torch.no_grad()
    def _label_by_patches(self, extract: Extractor) -> dict[str, float]:
        """Label images by spherical k-means on the leading components of the features of patches, once for each head.

        The centroids' components become the prototypes, so that similar clusters are close: the network learns random ones more slowly.
        """
        rows, (device, width) = extract("patches"), (self.prototypes.weight.device, self.prototypes.weight.shape[1])
        require_enough(len(rows.index), max(self.config.n_prototypes))
        leading = rows.values[:, :_COMPONENTS]
        found = [
            kmeans(leading, k, spherical=True, seed=randomness.seed_from(self.config.run.seed, head, _PATCHES), device=device)
            for head, k in enumerate(self.config.n_prototypes)
        ]
        centroids = torch.cat([one.centroids for one in found])[:, :width]
        self.prototypes.weight[:, : centroids.shape[1]] = centroids
        self.prototypes.weight[:, centroids.shape[1] :] = 0
        self.prototypes.normalize()
        return self.labels.update([one.assignments for one in found], rows.index, [one.sizes for one in found])

    @torch.no_grad()
    def _label_by_neighbors(self, extract: Extractor) -> dict[str, float]:
        """Label images by the nearest centroid of a spectral clustering of the encoder's centered features, once for each head.

        Without a head, the centroids become the prototypes, so that training begins with a classifier of these labels.
        """
        rows, device, seed = extract("features"), self.prototypes.weight.device, self.config.run.seed
        ks = self.config.n_prototypes
        require_enough(len(rows.index), max(ks))
        total = torch.from_numpy(rows.values.sum(axis=0, dtype=np.float64)).float()
        mean = distributed.all_reduce_sum(total.to(device)) / distributed.total(len(rows.index))
        centered = map_rows(rows, lambda block: block - mean, device)
        sampled = sample_rows(len(rows.index), _GRAPH_ROWS // distributed.n_ranks(), seed)
        sample = distributed.gather_rows(torch.from_numpy(centered.values[sampled]).to(device)).cpu()
        centroids: list[Tensor] = []
        if distributed.rank() == 0:  # only there, since eigenvectors differ in the last digits between machines
            with distributed.alone():
                centroids = spectral_centroids(sample, ks, seed=seed)
        centroids = distributed.of_rank_0(centroids)
        found = [
            kmeans(centered.values, k, spherical=True, init=of_head, iterations=1, device=device)
            for k, of_head in zip(ks, centroids, strict=True)
        ]
        if isinstance(self.model.head, Center):
            self.model.head.mean.copy_(mean)
            self.prototypes.weight.copy_(torch.cat([one.centroids for one in found]))
        return self.labels.update([one.assignments for one in found], rows.index, [one.sizes for one in found])

    @torch.no_grad()
    def assign(self, out: Outputs, batch: Batch) -> PseudoLabels:
        """Return the pseudo-labels of the batch, one per image for each head."""
        return self.labels.targets(batch.index)

    def loss(self, out: Outputs, targets: PseudoLabels) -> Tensor:
        """Return the mean over heads of the cross-entropy of every crop with its image's label."""
        temperature = self.config.objective.temperature
        heads = zip(out.scores, targets.labels, strict=True)
        of_heads = [pseudo_label_loss(scores, labels, temperature=temperature, n_valid=targets.n_valid) for scores, labels in heads]
        return torch.stack(of_heads).mean()

    def after_update(self, out: Outputs, batch: Batch, step: int) -> None:
        """Write the batch into the bank."""
        if self.bank is not None:
            self.bank.write(batch.index, out.embeddings[: self.model.n_assign].detach())

    def state_dict(self) -> dict[str, Tensor]:
        of_bank = self.bank.global_state() if self.bank is not None else {}
        return {"pseudo_labels": self.labels.whole, **{f"bank_{name}": x for name, x in of_bank.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.labels.whole.copy_(state["pseudo_labels"])
        if self.bank is not None:
            self.bank.load_global_state({name.removeprefix("bank_"): x for name, x in state.items() if name.startswith("bank_")})
