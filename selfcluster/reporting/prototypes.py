"""Galleries of prototypes: the images whose embeddings are nearest to each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

_CHUNK_BYTES = 2**26
"""Size of the scores computed at a time."""


@dataclass(frozen=True)
class PrototypeGallery:
    """A prototype and the images nearest to it."""

    prototype: int
    n_nearest: int
    """Number of images to which no other prototype of the head is nearer."""
    rows: tuple[int, ...]
    """Rows of the nearest images in the table, nearest first."""


@dataclass(frozen=True)
class PrototypeGalleries:
    """The most used prototypes of a run's first head."""

    n_prototypes: int
    """Number of prototypes of the head."""
    n_heads: int
    n_used: int
    """Number of prototypes that are nearest to some image."""
    galleries: tuple[PrototypeGallery, ...]
    """Most used prototypes first."""


@torch.no_grad()
def prototype_galleries(
    features: Float[Tensor, "n f"],
    readable: Int64[Tensor, " r"],
    scores: Callable[[Tensor], Tensor],
    *,
    n_prototypes: tuple[int, ...],
    n_shown: int,
    n_images: int = 8,
) -> PrototypeGalleries:
    """Return the most used prototypes of the first head, each with the images nearest to it.

    Args:
        features: one row per image, in the order of the table.
        readable: rows to look at; those that are not finite are skipped.
        scores: maps features (b, f) to scores of the first head (b, K), on the CPU.
        n_prototypes: number of prototypes of each head.
        n_shown: prototypes to return, at most.
        n_images: images per prototype, at most.
    """
    k = n_prototypes[0]
    n_nearest = torch.zeros(k, dtype=torch.int64)
    best, rows = torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    for part in readable.split(max(1, _CHUNK_BYTES // (4 * k))):
        kept = features[part]
        is_finite = torch.isfinite(kept).all(dim=1)
        part, new = part[is_finite], scores(kept[is_finite])
        n_nearest += torch.bincount(new.argmax(dim=1), minlength=k)
        candidates, candidate_rows = torch.cat([best, new]), torch.cat([rows, part[:, None].expand(-1, k)])
        best, place = candidates.topk(min(n_images, len(candidates)), dim=0)
        rows = candidate_rows.gather(0, place)
    shown = n_nearest.argsort(descending=True, stable=True)[:n_shown]
    return PrototypeGalleries(
        n_prototypes=k,
        n_heads=len(n_prototypes),
        n_used=int((n_nearest > 0).sum()),
        galleries=tuple(PrototypeGallery(int(i), int(n_nearest[i]), tuple(rows[:, i].tolist())) for i in shown if n_nearest[i]),
    )
