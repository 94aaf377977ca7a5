"""What prototypes look like: the images whose embeddings lie nearest to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from selfcluster.reporting.page import TopImages, TopOfPrototypes

_CHUNK_BYTES = 2**26
"""Of scores that are held at a time."""


@torch.no_grad()
def top_of_prototypes(
    features: Float[Tensor, "n f"],
    scores: Callable[[Tensor], Tensor],
    *,
    n_prototypes: tuple[int, ...],
    most: int,
    images: int = 8,
) -> TopOfPrototypes:
    """The prototypes of the first head that are nearest to most images, each with the images nearest to it.

    Args:
        features: of each image in the order of the table; rows that are not finite are passed over.
        scores: from features (b, f) to the scores of the first head (b, K), on the CPU.
        n_prototypes: of each head.
        most: prototypes to show.
        images: to show of each, at most.
    """
    k = n_prototypes[0]
    readable = torch.isfinite(features).all(dim=1).nonzero()[:, 0]
    nearest = torch.zeros(k, dtype=torch.int64)
    best, rows = torch.empty(0, k), torch.empty(0, k, dtype=torch.int64)
    for part in readable.split(max(1, _CHUNK_BYTES // (4 * k))):
        theirs = scores(features[part])
        nearest += torch.bincount(theirs.argmax(dim=1), minlength=k)
        candidates, from_rows = torch.cat([best, theirs]), torch.cat([rows, part[:, None].expand(-1, k)])
        best, place = candidates.topk(min(images, len(candidates)), dim=0)
        rows = from_rows.gather(0, place)
    shown = nearest.argsort(descending=True, stable=True)[:most]
    return TopOfPrototypes(
        n=k,
        n_heads=len(n_prototypes),
        n_used=int((nearest > 0).sum()),
        shown=tuple(TopImages(int(i), int(nearest[i]), tuple(rows[:, i].tolist())) for i in shown if nearest[i]),
    )
