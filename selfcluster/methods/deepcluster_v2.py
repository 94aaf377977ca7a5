"""DeepCluster-v2: k-means on a memory bank, with the centroids as the classifier.

DeepCluster in SwAV's clothes: multi-crop, a projection head, cosines with temperature. Spherical k-means on the bank gives every
image a pseudo-label and the prototypes at once, since a centroid is the ideal row of a classifier for its cluster; so nothing has
to begin anew, and the prototypes are not trained.

Source: arXiv 2006.09882, appendix C.
"""

from __future__ import annotations

from typing import Any, final

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

    Deviations: an empty cluster is filled from the largest, where the reference leaves its centroid alone.
    """

    def __init__(self, config: Config[DeepClusterV2Settings], model: ClusterModel, trained_on: NDArray[np.int64], **steps: Any) -> None:
        super().__init__(config, model, trained_on, **steps)
        self.settings = config.objective
        self.prototypes.weight.requires_grad_(False)

    @torch.no_grad()
    def cluster(self, head: int, embeddings: Tensor, epoch: int) -> tuple[Tensor, tuple[str, ...]]:
        """Clusters of the head's bank; its prototypes are their centroids."""
        k = self.config.n_prototypes[head]
        seed = randomness.seed_from(self.config.run.seed, epoch, head)
        found = kmeans(embeddings, k, iterations=self.settings.kmeans_iterations, spherical=True, seed=seed)
        self.prototypes.heads()[head].copy_(found.centroids)
        empty = f"the embeddings hold fewer than {k} distinct points, so {found.n_empty} clusters stay empty"
        return found.assignments, (empty,) if found.n_empty else ()
