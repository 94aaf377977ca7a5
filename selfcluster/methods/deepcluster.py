"""DeepCluster: cluster the features of all images, predict the clusters, repeat.

Each epoch, k-means on the whitened features of the data set gives every image a pseudo-label, and the network learns to predict it through a
freshly initialized top layer, since the clusters of two epochs do not correspond. There are two trivial solutions: all images in few clusters
(so empty clusters are filled, and a single label ends the run), and large clusters that outweigh the small (so images are drawn uniformly over
clusters).

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
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.whitening import Whitening, fit_whitening
from selfcluster.data.loader import Batch, EpochPlan
from selfcluster.errors import CollapseError
from selfcluster.methods.base import Extractor, Method, PseudoLabels, stop_or_warn
from selfcluster.methods.losses import pseudo_label_loss
from selfcluster.methods.pseudo_labels import PseudoLabelTable, check_clusters, require_enough
from selfcluster.models.heads import TopLayer
from selfcluster.models.model import ClusterModel, Outputs
from selfcluster.models.rows import map_rows
from selfcluster.optim import ParameterGroup, constant
from selfcluster.settings.config import Config, DeepClusterSettings, keeps_first_labels

_CONSTANT = 1e-3
"""Spread of the features, as a share of their length, below which they are constant but for rounding in bf16."""

_TOP_LAYER, _KMEANS, _SAMPLING = 0xD1, 0xD2, 0xD3
"""Keys of the random draws."""


@final
class DeepCluster(Method[PseudoLabels]):
    """Assign by k-means over the data set between epochs; predict pseudo-labels.

    Deviations: the encoder is any timm model, where the paper has AlexNet and VGG16. The paper clusters the input of the last ReLU; a ResNet's
    features are its output. Dropout is applied before the top layer, since no other layer follows the encoder. Empty clusters: see `clustering.empty_clusters`.
    """

    def __init__(self, config: Config[DeepClusterSettings], model: ClusterModel, trained_on: NDArray[np.int64], **steps: int) -> None:
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
            mean=config.model.pixel_mean,
            deviation=config.model.pixel_deviation,
        )

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the encoder, trained as the settings say, and the top layer, trained by SGD at a constant rate without momentum."""
        o = self.config.optim
        encoder = [p for p in self.model.encoder.parameters() if p.requires_grad]
        return [
            ParameterGroup("encoder", encoder, o.optimizer, self.schedule(o.encoder_lr_ratio), o.momentum, o.weight_decay),
            ParameterGroup("top layer", list(self.top_layer.parameters()), "sgd", constant(self.settings.top_lr), 0.0, o.weight_decay),
        ]

    def begin_epoch(self, epoch: int, extract: Extractor) -> EpochPlan:
        """Cluster and re-initialize the top layer every `reassign_epochs`; draw images uniformly over the clusters."""
        keeps_first = keeps_first_labels(self.settings, epoch)
        is_due = not self.n_labels or (epoch % self.settings.reassign_epochs == 0 and not keeps_first)
        return self._reassign(epoch, extract) if is_due else EpochPlan(self._order(epoch))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return uniform_over_clusters(self.labels.of_head(0), len(self.trained_on), self.config.run.seed, epoch, _SAMPLING)

    def _reassign(self, epoch: int, extract: Extractor) -> EpochPlan:
        """Give every image a new pseudo-label."""
        k, seed, device = self.settings.n_prototypes, self.config.run.seed, self.top_layer.weight.device
        rows = extract("patches" if self.settings.first_labels == "patches" and not self.n_labels else "features")
        require_enough(len(rows.index), k)
        self.whitening = fit_whitening(rows.values, self.settings.pca_width, device=device)
        warnings = self._warnings_of_features(epoch)
        whitened = map_rows(rows, self.whitening, device).values
        iterations = self.settings.kmeans_iterations
        found = kmeans(whitened, k, iterations=iterations, seed=randomness.seed_from(seed, epoch, _KMEANS), device=device)
        is_used = found.sizes > 0
        self.n_labels = int(is_used.sum())
        if self.n_labels < 2:
            # Even where a collapse is only a warning: the loss over a single label is 0, and nothing would be learned.
            raise CollapseError(
                f"collapsed: k-means finds one cluster for all images at epoch {epoch}; lower lr, or start from other weights (--init)"
            )
        contiguous = is_used.cumsum(dim=0) - 1
        figures = self.labels.update([contiguous[found.assignments]], rows.index, [found.sizes])
        self.centroids = found.centroids[is_used]
        with randomness.forked(seed, epoch, _TOP_LAYER):
            self.top_layer.reinitialize(torch.randn(self.top_layer.weight.shape))
        note = f"epoch {epoch}: the features have {self.n_labels} distinct values, so {found.n_empty} of {k} clusters stay empty"
        notes = (note,) if found.n_empty else ()
        return EpochPlan(self._order(epoch), ("prototypes.weight", "prototypes.bias"), figures, notes, warnings)

    def _warnings_of_features(self, epoch: int) -> tuple[str, ...]:
        """Return a warning if the features of all images are the same, unless that stops the run."""
        assert self.whitening is not None
        if self.whitening.spread >= _CONSTANT:
            return ()
        message = (
            f"collapsed: the features of all images are the same to {self.whitening.spread:.1e} of their length at epoch {epoch}; "
            "lower lr, or start from other weights (--init)"
        )
        return (stop_or_warn(message, self.config.health.on_collapse),)

    @torch.no_grad()
    def assign(self, out: Outputs, batch: Batch) -> PseudoLabels:
        """Return the pseudo-labels of the batch."""
        return self.labels.targets(batch.index)

    def loss(self, out: Outputs, targets: PseudoLabels) -> Tensor:
        """Return the cross-entropy over the clusters that contain images."""
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
    """Draw n images in random order, the same number from each cluster up to rounding.

    With c clusters, each gives n // c + 1 images. A larger cluster gives distinct ones; a smaller one repeats each of its images equally often, up
    to rounding. The surplus is cut off after shuffling.

    Args:
        pseudo_labels: cluster of each image; -1 for none, and such images are not drawn.
        n: number of images.
        key: of the random draws.
    Returns:
        indices, (n,).
    Source: DeepCluster, arXiv 1807.05520, section 3.1. Deviations: small clusters are repeated as a whole; drawn with replacement, clusters of
    equal size would show only 63 % of the images in an epoch.
    """
    generator = np.random.default_rng(randomness.seed_from(*key))
    by_cluster = np.argsort(pseudo_labels, kind="stable")
    _, begins = np.unique(pseudo_labels[by_cluster], return_index=True)
    clusters = np.split(by_cluster, begins[1:])
    if pseudo_labels[by_cluster[0]] < 0:
        clusters = clusters[1:]
    drawn: list[np.ndarray] = []
    for members in clusters:
        times, rest = divmod(n // len(clusters) + 1, len(members))
        drawn += [np.tile(members, times), generator.choice(members, rest, replace=False)]
    return generator.permutation(np.concatenate(drawn))[:n]
