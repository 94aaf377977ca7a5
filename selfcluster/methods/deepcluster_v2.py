"""DeepCluster-v2: k-means on a memory bank, with the centroids as the classifier.

DeepCluster with SwAV's network: multi-crop, a projection head, cosines with temperature. Spherical k-means on the bank gives every image a
pseudo-label, and the centroids are the rows of the classifier; nothing is re-initialized, and the prototypes are not trained.

Source: arXiv 2006.09882, appendix C.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfcluster import randomness
from selfcluster.clustering.kmeans import kmeans
from selfcluster.methods.bank import BankMethod
from selfcluster.models.model import ClusterModel
from selfcluster.settings.config import Config, DeepClusterV2Settings


@final
class DeepClusterV2(BankMethod):
    """Assign by spherical k-means over the memory bank between epochs; predict pseudo-labels.

    Deviations: an empty cluster is filled from the largest, where the reference keeps its centroid.
    """

    def __init__(self, config: Config[DeepClusterV2Settings], model: ClusterModel, trained_on: NDArray[np.int64], **steps: int) -> None:
        super().__init__(config, model, trained_on, **steps)
        self.settings = config.objective
        self.prototypes.weight.requires_grad_(False)

    @torch.no_grad()
    def cluster(self, head: int, embeddings: Tensor, epoch: int) -> tuple[Tensor, tuple[str, ...]]:
        """Cluster the head's bank by k-means, and copy the centroids into its prototypes."""
        k = self.config.n_prototypes[head]
        seed = randomness.seed_from(self.config.run.seed, epoch, head)
        found = kmeans(embeddings, k, iterations=self.settings.kmeans_iterations, spherical=True, seed=seed)
        self.prototypes.heads()[head].copy_(found.centroids)
        empty = f"the embeddings have fewer than {k} distinct values, so {found.n_empty} clusters stay empty"
        return found.assignments, (empty,) if found.n_empty else ()
