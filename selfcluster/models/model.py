"""The network: encoder, projection head and prototypes. This is all that data parallelism wraps.

x -> features f(x) -> head -> embeddings z of unit norm -> scores z C^T, cosines with the unit rows of the prototypes C.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, normalize

from selfcluster.models.batch_norm import running_statistics_kept


@dataclass(frozen=True)
class Outputs:
    """What the model says of a batch, crop by crop in the batch's order."""

    features: Float[Tensor, "assign b f"]
    """The encoder's output for the large crops."""
    embeddings: Float[Tensor, "crops b d"]
    """After the head, of unit norm."""
    scores: list[Float[Tensor, "crops b _"]]
    """For each head: cosine of each embedding with each prototype (DeepCluster: what the top layer says of each cluster)."""

    @classmethod
    def joined(cls, parts: list[Outputs]) -> Outputs:
        """Those of a batch from those of its parts."""
        of_heads = zip(*(part.scores for part in parts), strict=True)
        return cls(
            features=torch.cat([part.features for part in parts], dim=1),
            embeddings=torch.cat([part.embeddings for part in parts], dim=1),
            scores=[torch.cat(of_head, dim=1) for of_head in of_heads],
        )


class Prototypes(nn.Module):
    """K unit rows without bias; scores are cosines. Several heads stand below each other in one matrix.

    Args:
        n: rows K of each head. SwAV: (3000,); DeepCluster-v2: (3000, 3000, 3000).
        width: of the embeddings. Paper: 128.
    """

    def __init__(self, n: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.n = n
        self.weight = nn.Parameter(torch.randn(sum(n), width))
        self.normalize()
        self.register_load_state_dict_post_hook(_unit_rows)

    @torch.no_grad()
    def normalize(self) -> None:
        """Every row has unit norm. Called after every update; the normalization has no gradient."""
        self.weight.copy_(normalize(self.weight))

    def heads(self) -> tuple[Float[Tensor, "_ d"], ...]:
        """The rows of each head."""
        return self.weight.split(self.n)

    def forward(self, embeddings: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n _"], ...]:
        # Precision: scores in bf16 flip 2 % of the assignments, so here everything is float32.
        with torch.autocast(embeddings.device.type, enabled=False):
            return linear(embeddings, self.weight).split(self.n, dim=1)


class TopLayer(nn.Module):
    """DeepCluster's last layer, from features to clusters: linear with bias.

    Args:
        n: clusters. Paper: 10000 for ImageNet.
        width: of the features.
    """

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, width))
        self.bias = nn.Parameter(torch.zeros(n))
        self.begin_anew(torch.randn(n, width))

    @torch.no_grad()
    def begin_anew(self, normal: Float[Tensor, "k f"]) -> None:
        """Weights of standard deviation 0.01 from standard normal ones, and bias 0."""
        self.weight.copy_(0.01 * normal)
        self.bias.zero_()

    def forward(self, features: Float[Tensor, "n f"]) -> tuple[Float[Tensor, "n k"]]:
        with torch.autocast(features.device.type, enabled=False):
            return (linear(features.float(), self.weight, self.bias),)


@torch.no_grad()
def _unit_rows(prototypes: Prototypes, _: object) -> None:
    """Loaded rows are unit too. Rows that are so already stay as they are: normalizing twice moves last bits, and a resumed run
    would differ from one that was never stopped."""
    if not torch.allclose(prototypes.weight.norm(dim=1), torch.ones((), device=prototypes.weight.device), rtol=0, atol=1e-5):
        prototypes.normalize()


def projection_head(n_features: int, hidden: int, width: int) -> nn.Module:
    """Linear, batch norm, ReLU, linear; a single linear layer where hidden is 0; then unit norm. Paper: 2048 hidden, 128 out."""
    if hidden == 0:
        return nn.Sequential(nn.Linear(n_features, width), UnitNorm())
    return nn.Sequential(nn.Linear(n_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width), UnitNorm())


class UnitNorm(nn.Module):
    """Rows of unit norm, in float32."""

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        with torch.autocast(x.device.type, enabled=False):
            return normalize(x.float())


class Sobel(nn.Module):
    """Edges in place of colors: the mean of the channels through 3 x 3 Sobel filters in x and y; fixed.

    Source: DeepCluster, arXiv 1807.05520, section 4.1.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        in_x = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("filters", torch.stack([in_x, in_x.T])[:, None], persistent=False)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 2 h w"]:
        return conv2d(images.mean(dim=1, keepdim=True), self.filters, padding=1)


class ClusterModel(nn.Module):
    """Encoder, head and prototypes.

    Args:
        encoder: images to features.
        n_features: width of its output.
        head: features to embeddings.
        prototypes: embeddings to scores, of one head or several.
        n_assign: how many of the first crops get targets of their own; their features are kept in the output.
        sobel: whether the encoder sees edges (two channels) in place of colors.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_features: int,
        *,
        head: nn.Module,
        prototypes: Prototypes | TopLayer,
        n_assign: int,
        sobel: bool = False,
    ) -> None:
        super().__init__()
        self.filter = Sobel() if sobel else nn.Identity()
        self.encoder = encoder
        self.n_features = n_features
        self.n_assign = n_assign
        self.head = head
        self.prototypes = prototypes

    def encode(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        """The features of normalized images."""
        images = self.filter(images)
        if next(self.encoder.parameters()).is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        return self.encoder(images)

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """The embeddings of normalized images."""
        return self.head(self.encode(images))

    def forward(self, crops: list[Float[Tensor, "b 3 _ _"]]) -> Outputs:
        """All crops of one size go through the encoder together, then all embeddings through the head together."""
        by_size = [list(group) for _, group in groupby(crops, key=lambda crop: crop.shape[-1])]
        features = torch.cat([self._encode(group, keep_statistics=i == 0) for i, group in enumerate(by_size)])
        embeddings = self.head(features).float()
        scores = self.prototypes(embeddings)
        n_images = len(crops[0])
        return Outputs(
            features=features.detach().unflatten(0, (-1, n_images))[: self.n_assign],
            embeddings=embeddings.unflatten(0, (-1, n_images)),
            scores=[of_head.unflatten(0, (-1, n_images)) for of_head in scores],
        )

    def _encode(self, crops: list[Tensor], *, keep_statistics: bool) -> Float[Tensor, "n f"]:
        # Running statistics are meant for whole images, which the first crops resemble most.
        with contextlib.nullcontext() if keep_statistics else running_statistics_kept(self.encoder):
            return self.encode(torch.cat(crops))
