"""The network with the clusters of a run as classes: encoder, center and centroids, so that its largest score is the cluster of `assign`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import normalize

from selfcluster.inference.centroids import Centroids
from selfcluster.models.model import ClusterModel


class Classifier(nn.Module):
    """From normalized images to a score for each cluster: the cosine of its nearest centroid.

    Args:
        network: of the run.
        centroids: of its clusters.
    """

    center: Tensor
    vectors: Tensor
    of_clusters: Tensor

    def __init__(self, network: ClusterModel, centroids: Centroids) -> None:
        super().__init__()
        self.network, self.by_head = network, centroids.layer == "head"
        self.register_buffer("center", centroids.center)
        self.register_buffer("vectors", centroids.vectors)
        self.register_buffer("of_clusters", _rows_of_clusters(centroids))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n k"]:
        """Return the scores of the clusters, in [-1, 1]."""
        rows = self.network.project(images) if self.by_head else self.network.encode(images) - self.center
        return (normalize(rows) @ self.vectors.T)[:, self.of_clusters].amax(dim=2)


def _rows_of_clusters(centroids: Centroids) -> Int64[Tensor, "k m"]:
    """Return the centroids of each cluster, the first of them repeated to the same number for all."""
    rows = [torch.nonzero(centroids.clusters == cluster).flatten() for cluster in range(centroids.n_clusters)]
    return torch.stack([torch.cat([of, of[:1].expand(max(map(len, rows)) - len(of))]) for of in rows])


def class_names(centroids: Centroids) -> list[str]:
    """Return the name of each cluster, or `cluster-07` where it has none, as `--copy-to` calls its folders."""
    n_digits = len(str(centroids.n_clusters - 1))
    return [name or f"cluster-{cluster:0{n_digits}}" for cluster, name in enumerate(centroids.names)]
