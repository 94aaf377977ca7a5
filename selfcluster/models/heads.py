"""What follows the encoder: the projection head, then the prototypes, or DeepCluster's top layer. Norms and scores are computed in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear, normalize


def projection_head(n_features: int, hidden: int, width: int) -> nn.Module:
    """Build linear, batch norm, ReLU, linear, or a single linear layer if hidden is 0, then unit norm. Paper: 2048 hidden, 128 out."""
    if hidden == 0:
        return nn.Sequential(nn.Linear(n_features, width), UnitNorm())
    return nn.Sequential(nn.Linear(n_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width), UnitNorm())


class Center(nn.Module):
    """Subtracts the mean of the features and scales rows to unit norm, in float32; the head of a run without training."""

    mean: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        with torch.autocast(features.device.type, enabled=False):
            return normalize(features.float() - self.mean)


class UnitNorm(nn.Module):
    """Scales rows to unit norm, in float32."""

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        with torch.autocast(x.device.type, enabled=False):
            return normalize(x.float())


class Prototypes(nn.Module):
    """K unit rows without bias; scores are cosines. Several heads are stacked in one matrix.

    Args:
        n: number of rows K of each head. SwAV: (3000,); DeepCluster-v2: (3000, 3000, 3000).
        width: width of the embeddings. Paper: 128.
    """

    def __init__(self, n: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.n = n
        self.weight = nn.Parameter(torch.randn(sum(n), width))
        self.normalize()
        self.register_load_state_dict_post_hook(_unit_rows)

    @torch.no_grad()
    def normalize(self) -> None:
        """Scale every row to unit norm; called after every update, without gradient."""
        self.weight.copy_(normalize(self.weight))

    def heads(self) -> tuple[Float[Tensor, "_ d"], ...]:
        """Return the rows of each head, as views."""
        return self.weight.split(self.n)

    def forward(self, embeddings: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "n _"], ...]:
        # Precision: scores in bf16 flip 2 % of the assignments, so here everything is float32.
        with torch.autocast(embeddings.device.type, enabled=False):
            return linear(embeddings, self.weight).split(self.n, dim=1)


class TopLayer(nn.Module):
    """DeepCluster's last layer, from features to clusters: linear with bias.

    Args:
        n: number of clusters. Paper: 10000 for ImageNet.
        width: width of the features.
    """

    def __init__(self, n: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, width))
        self.bias = nn.Parameter(torch.zeros(n))
        self.reinitialize(torch.randn(n, width))

    @torch.no_grad()
    def reinitialize(self, normal: Float[Tensor, "k f"]) -> None:
        """Set the weights to 0.01 times these standard normal draws, and the bias to 0."""
        self.weight.copy_(0.01 * normal)
        self.bias.zero_()

    def forward(self, features: Float[Tensor, "n f"]) -> tuple[Float[Tensor, "n k"]]:
        with torch.autocast(features.device.type, enabled=False):
            return (linear(features.float(), self.weight, self.bias),)


@torch.no_grad()
def _unit_rows(prototypes: Prototypes, _: object) -> None:
    """Normalize loaded rows, unless they are unit already: normalizing again moves the last bits, and a resumed run would differ from one that
    was never stopped."""
    if not torch.allclose(prototypes.weight.norm(dim=1), torch.ones((), device=prototypes.weight.device), rtol=0, atol=1e-5):
        prototypes.normalize()
