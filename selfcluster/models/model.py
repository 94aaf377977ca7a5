"""The network: encoder, projection head and prototypes. Data parallelism wraps this and nothing else.

x -> features f(x) -> head -> embeddings z of unit norm -> scores z C^T, cosines with the unit rows of the prototypes C.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from selfcluster.models.batch_norm import running_statistics_kept
from selfcluster.models.filters import Renormalize, Sobel
from selfcluster.models.frozen import Parts, freeze, split
from selfcluster.models.heads import Prototypes, TopLayer


@dataclass(frozen=True)
class Outputs:
    """The model's outputs for a batch, crop by crop in the order of the batch."""

    features: Float[Tensor, "assign b f"]
    """The encoder's output for the large crops."""
    embeddings: Float[Tensor, "crops b d"]
    """The head's output, of unit norm."""
    scores: list[Float[Tensor, "crops b _"]]
    """For each head: cosine of each embedding with each prototype (DeepCluster: the top layer's output for each cluster)."""

    @classmethod
    def joined(cls, parts: list[Outputs]) -> Outputs:
        """Join the outputs for the parts of a batch."""
        of_heads = zip(*(part.scores for part in parts), strict=True)
        return cls(
            features=torch.cat([part.features for part in parts], dim=1),
            embeddings=torch.cat([part.embeddings for part in parts], dim=1),
            scores=[torch.cat(of_head, dim=1) for of_head in of_heads],
        )


class ClusterModel(nn.Module):
    """Encoder, head and prototypes.

    Args:
        encoder: maps images to features.
        n_features: width of the features.
        head: maps features to embeddings.
        prototypes: maps embeddings to scores, of one head or several.
        n_assign: number of assign crops, which come first; the outputs contain their features.
        sobel: whether the encoder sees edges (two channels) instead of colors.
        mean, deviation: normalization that the encoder expects; the model itself takes pixels normalized by ImageNet's.
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
        mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN,
        deviation: tuple[float, ...] = IMAGENET_DEFAULT_STD,
    ) -> None:
        super().__init__()
        is_imagenet = (mean, deviation) == (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self.filter = nn.Sequential(*([] if is_imagenet else [Renormalize(mean, deviation)]), *([Sobel()] if sobel else []))
        self.encoder = encoder
        self.n_features = n_features
        self.n_assign = n_assign
        self.head = head
        self.prototypes = prototypes
        self._parts: tuple[Parts, ...] = ()  # in a tuple, since these modules are the encoder's own

    def freeze(self, stages: str, name: str) -> None:
        """Freeze stages of the encoder, with the running statistics of all its batch norm; `forward` takes the output of `run_frozen` then.

        Args:
            stages, name: see `frozen.freeze`.
        """
        freeze(self.encoder, stages, name)
        if stages != "none":
            self.encoder.eval()
            self._parts = (split(self.encoder),)

    @property
    def has_frozen_stages(self) -> bool:
        """Whether `freeze` has frozen stages of the encoder."""
        return bool(self._parts)

    @property
    def runs_frozen_apart(self) -> bool:
        """Whether `run_frozen` does all that the frozen stages do; otherwise they run with the rest, in `forward`."""
        return self.has_frozen_stages and self._parts[0].is_cut

    def train(self, mode: bool = True) -> ClusterModel:
        """Change to training mode, except for an encoder with frozen stages."""
        super().train(mode)
        if self.has_frozen_stages:
            self.encoder.eval()
        return self

    @torch.no_grad()
    def run_frozen(self, crops: list[Float[Tensor, "b 3 _ _"]]) -> list[Float[Tensor, "b ..."]]:
        """Return the output of the frozen stages for normalized crops; without frozen stages, the crops."""
        if not self.has_frozen_stages:
            return crops
        return [self._parts[0].frozen(self._filtered(crop)) for crop in crops]

    def encode(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n f"]:
        """Return the features of normalized pixels."""
        return self.encoder(self._filtered(pixels))

    def _filtered(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n _ h w"]:
        pixels = self.filter(pixels)
        weight = next(self.encoder.parameters(), None)  # patches have none
        if weight is not None and weight.is_contiguous(memory_format=torch.channels_last):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return pixels

    def project(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """Return the embeddings z of normalized pixels."""
        return self.head(self.encode(pixels))

    def forward(self, crops: list[Float[Tensor, "b ..."]]) -> Outputs:
        """Run the encoder once for each crop size, then the head once for all crops; crops have gone through `run_frozen`."""
        encode = self._parts[0].trained if self.has_frozen_stages else self.encode
        by_size = [list(group) for _, group in groupby(crops, key=lambda crop: crop.shape[-1])]
        encoded = []
        for i, group in enumerate(by_size):
            # Running statistics are meant for whole images, which the first crops resemble most.
            with contextlib.nullcontext() if i == 0 else running_statistics_kept(self.encoder):
                encoded.append(encode(torch.cat(group)))
        features = torch.cat(encoded)
        embeddings = self.head(features).float()
        scores = self.prototypes(embeddings)
        n_images = len(crops[0])
        return Outputs(
            features=features.detach().unflatten(0, (-1, n_images))[: self.n_assign],
            embeddings=embeddings.unflatten(0, (-1, n_images)),
            scores=[of_head.unflatten(0, (-1, n_images)) for of_head in scores],
        )
