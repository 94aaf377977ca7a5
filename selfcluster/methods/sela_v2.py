"""SeLa-v2: Sinkhorn-Knopp over the data set, on a memory bank.

DeepCluster-v2 with a different assigner: the labels are those of an optimal transport that gives every prototype the same mass, and the
prototypes are trained, as in SwAV.

Source: arXiv 2006.09882, appendix C (the setting); "Self-labeling via simultaneous clustering and representation learning",
arXiv 1911.05371 (the idea).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from selfcluster.clustering.sinkhorn import log_potentials
from selfcluster.data.loader import Batch
from selfcluster.methods.bank import BankMethod
from selfcluster.models.model import ClusterModel, Outputs
from selfcluster.settings.config import Config, SelaV2Settings

_CHUNK_BYTES = 1 << 24
"""Size of the scores computed at a time."""

_MASS_TOLERANCE = 0.01
"""Share of its mass by which a prototype may differ. SwAV's three iterations leave 0.25 at 5,000 images and 100 prototypes."""

_MAX_ITERATIONS = 1000
"""Most iterations of Sinkhorn-Knopp."""


@final
class SelaV2(BankMethod):
    """Assign by Sinkhorn-Knopp over the memory bank between epochs; predict pseudo-labels.

    Deviations: no code was published, so this follows its author's description. Chosen here: labels once an epoch, the largest entry of each
    code; epsilon as in SwAV; iterations until every prototype's mass is within 1 % of its share; heads, crops, bank, temperature and the -1 of
    images never visited as in DeepCluster-v2; prototypes of unit rows, trained from the first step by the optimizer of the network.
    """

    def __init__(self, config: Config[SelaV2Settings], model: ClusterModel, trained_on: NDArray[np.int64], **steps: int) -> None:
        super().__init__(config, model, trained_on, **steps)
        self.settings = config.objective

    @torch.no_grad()
    def cluster(self, head: int, embeddings: Tensor, epoch: int) -> tuple[Tensor, tuple[str, ...]]:
        """Return the largest entry of each code; scores are recomputed in chunks in every iteration and never all in memory."""
        epsilon, rows = self.settings.epsilon, self.prototypes.heads()[head]
        size = max(1, _CHUNK_BYTES // (4 * len(rows)))

        def chunks() -> Iterator[Tensor]:
            return (linear(part, rows) for part in embeddings.split(size) if len(part))

        balance = log_potentials(
            chunks, len(rows), epsilon=epsilon, iterations=_MAX_ITERATIONS, tolerance=_MASS_TOLERANCE, device=rows.device
        )
        nearest = [(scores / epsilon + balance.log_potentials).argmax(dim=1) for scores in chunks()]
        assignments = torch.cat([torch.empty(0, dtype=torch.int64, device=rows.device), *nearest])
        if balance.mass_error <= _MASS_TOLERANCE:
            return assignments, ()
        return assignments, (
            f"Sinkhorn-Knopp stopped after {balance.n_iterations} iterations with masses off by up to {balance.mass_error:.1%}; raise epsilon",
        )

    def after_update(self, out: Outputs, batch: Batch, step: int) -> None:
        """Normalize the prototypes and write the batch into the bank."""
        self.prototypes.normalize()
        super().after_update(out, batch, step)
