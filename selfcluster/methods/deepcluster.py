"""DeepCluster: cluster the features of all images, predict the clusters, repeat.

Each epoch k-means on the whitened features of the data set gives every image a pseudo-label, and the network learns to predict
it through a top layer that begins anew, since cluster 7 of this epoch has nothing to do with cluster 7 of the last. Two trivial
solutions wait: all images in few clusters (so empty clusters are filled, and one label left ends the run), and big clusters
crowding out the small (so images are drawn uniformly over clusters).

Source: "Deep Clustering for Unsupervised Learning of Visual Features", arXiv 1807.05520.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from selfcluster import randomness
from selfcluster.clustering.kmeans import Clustering, kmeans
from selfcluster.clustering.whitening import Whitening, fit_whitening
from selfcluster.data.loader import Batch, EpochPlan
from selfcluster.errors import CollapseError
from selfcluster.methods.base import Extract, Method, PseudoLabels
from selfcluster.methods.losses import pseudo_label_loss
from selfcluster.methods.pseudo_labels import PseudoLabelTable, check_clusters, require_enough
from selfcluster.models.features import Rows, map_rows
from selfcluster.models.model import ClusterModel, Outputs, TopLayer
from selfcluster.optim import ParameterGroup, constant
from selfcluster.settings.config import Config, DeepClusterSettings

_CONSTANT = 1e-3
"""Features that lie closer to their mean than this share of its length are taken for constant: rounding in bf16 makes as much."""

_TOP_LAYER, _KMEANS, _SAMPLING = 0xD1, 0xD2, 0xD3
"""Keep the draws of one epoch apart."""


@final
class DeepCluster(Method[PseudoLabels]):
    """Assign by k-means over the data set between epochs; predict pseudo-labels.

    Deviations: the encoder is any of timm's, where the paper has AlexNet and VGG16. The paper clusters what comes before the last
    ReLU; a ResNet's features come after it. Dropout stands before the top layer, since there is no other layer behind the encoder.
    Empty clusters: see `kmeans.reassign_empty`.
    """

    def __init__(self, config: Config[DeepClusterSettings], model: ClusterModel, trained_on: NDArray[np.int64], **steps: Any) -> None:
        super().__init__(config, model, trained_on, **steps)
        self.settings = config.objective
        check_clusters(config.n_prototypes, len(trained_on))
        assert isinstance(model.prototypes, TopLayer)
        self.top_layer = model.prototypes
        self.labels = PseudoLabelTable(1, trained_on, self.top_layer.weight.device)
        self.n_labels = 0
        self.whitening: Whitening | None = None
        self.centroids: Tensor | None = None

    @classmethod
    def network(cls, config: Config[Any], encoder: nn.Module, n_features: int) -> ClusterModel:
        return ClusterModel(
            encoder,
            n_features,
            head=nn.Dropout(config.objective.dropout),
            prototypes=TopLayer(config.objective.n_prototypes, n_features),
            n_assign=config.crops.n_crops[0],
            sobel=config.model.sobel,
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        """The encoder by the optimizer of the settings; the top layer by SGD of its own, constant and without momentum."""
        o = self.config.optim
        encoder = [p for p in self.model.encoder.parameters() if p.requires_grad]
        return [
            ParameterGroup("encoder", encoder, o.optimizer, self.schedule(), o.momentum, o.weight_decay),
            ParameterGroup("top layer", list(self.top_layer.parameters()), "sgd", constant(self.settings.top_lr), 0.0, o.weight_decay),
        ]

    def begin_epoch(self, epoch: int, extract: Extract) -> EpochPlan:
        """New pseudo-labels and a fresh top layer, every `reassign_epochs`; images drawn uniformly over the clusters."""
        seed, is_due = self.config.run.seed, epoch % self.settings.reassign_epochs == 0 or not self.n_labels
        figures, notes = self._reassign(epoch, extract) if is_due else ({}, ())
        order = uniform_over_clusters(self.labels.of_head(0), len(self.trained_on), seed, epoch, _SAMPLING)
        return EpochPlan(order, ("prototypes.weight", "prototypes.bias") if is_due else (), figures, notes)

    def _reassign(self, epoch: int, extract: Extract) -> tuple[dict[str, float], tuple[str, ...]]:
        k, seed = self.settings.n_prototypes, self.config.run.seed
        rows = extract("features")
        require_enough(len(rows.index), k)
        self.whitening = fit_whitening(rows.values, self.settings.pca_width, device=self.top_layer.weight.device)
        if self.whitening.spread < _CONSTANT:
            raise CollapseError(
                f"collapsed: the features of all images are the same to {self.whitening.spread:.1e} of their length at epoch {epoch}; "
                "lower lr, or start from other weights (--init)"
            )
        found = self._cluster(rows, randomness.seed_from(seed, epoch, _KMEANS))
        is_used = found.sizes > 0
        self.n_labels = int(is_used.sum())
        if self.n_labels < 2:
            raise CollapseError(
                f"collapsed: k-means finds one cluster for all images at epoch {epoch}; lower lr, or start from other weights"
            )
        contiguous = is_used.cumsum(dim=0) - 1
        figures = self.labels.update([contiguous[found.assignments]], rows.index, [found.sizes])
        self.centroids = found.centroids[is_used]
        with randomness.forked(seed, epoch, _TOP_LAYER):
            self.top_layer.begin_anew(torch.randn(self.top_layer.weight.shape))
        note = f"epoch {epoch}: the features hold {self.n_labels} distinct points, so {found.n_empty} of {k} clusters stay empty"
        return figures, (note,) if found.n_empty else ()

    def _cluster(self, rows: Rows, seed: int) -> Clustering:
        assert self.whitening is not None
        whitened = map_rows(rows, self.whitening, self.whitening.components.device)
        return kmeans(
            whitened.values,
            self.settings.n_prototypes,
            iterations=self.settings.kmeans_iterations,
            seed=seed,
            device=self.top_layer.weight.device,
        )

    @torch.no_grad()
    def assign(self, out: Outputs, batch: Batch) -> PseudoLabels:
        """The pseudo-labels of the batch's images."""
        return self.labels.targets(batch.index)

    def loss(self, out: Outputs, targets: PseudoLabels) -> Tensor:
        """Cross-entropy over the clusters that hold images."""
        return pseudo_label_loss(out.scores[0][..., : self.n_labels], targets.labels[0], n_valid=targets.n_valid)

    def state_dict(self) -> dict[str, Tensor]:
        if self.whitening is None or self.centroids is None:
            return {}
        return {
            "pseudo_labels": self.labels.whole,
            "n_labels": torch.tensor(self.n_labels),
            "centroids": self.centroids,
            "whitening_mean": self.whitening.mean,
            "whitening_components": self.whitening.components,
            "whitening_spread": torch.tensor(self.whitening.spread, dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not state:
            return
        device = self.top_layer.weight.device
        self.labels.whole.copy_(state["pseudo_labels"])
        self.n_labels, self.centroids = int(state["n_labels"]), state["centroids"].to(device)
        mean, components = state["whitening_mean"].to(device), state["whitening_components"].to(device)
        self.whitening = Whitening(mean, components, float(state["whitening_spread"]))


def uniform_over_clusters(pseudo_labels: NDArray[np.int64], n: int, *key: int) -> NDArray[np.int64]:
    """n images, equally many from each cluster but for rounding, in random order.

    Each of the c clusters gives n / c images rounded up to the next whole number. A cluster of more images than that gives different
    ones; a smaller one gives each of its images equally often, but for rounding. What is too much is cut off after shuffling.

    Args:
        pseudo_labels: cluster of each image; -1 for none, and such images are not drawn.
        n: images wanted.
        key: of the draws.
    Returns:
        indices, (n,).
    Source: DeepCluster, arXiv 1807.05520, section 3.1. Deviations: small clusters are repeated as a whole; drawn with replacement,
    clusters of equal size would show only 63 % of the images in an epoch.
    """
    generator = np.random.default_rng(randomness.seed_from(*key))
    by_cluster = np.argsort(pseudo_labels, kind="stable")
    _, begins = np.unique(pseudo_labels[by_cluster], return_index=True)
    clusters = np.split(by_cluster, begins[1:])
    if pseudo_labels[by_cluster[0]] < 0:
        clusters = clusters[1:]
    each = n // len(clusters) + 1
    drawn = [part for members in clusters for part in _drawn(members, each, generator)]
    return generator.permutation(np.concatenate(drawn))[:n]


def _drawn(members: NDArray[np.int64], n: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """n of the members, each as often as any other, but for rounding."""
    times, rest = divmod(n, len(members))
    return [np.tile(members, times), generator.choice(members, rest, replace=False)]
