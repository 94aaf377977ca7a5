"""Galleries of prototypes show the nearest images."""

from __future__ import annotations

import pytest
import torch

from selfcluster.reporting import prototypes
from selfcluster.reporting.prototypes import prototype_galleries
from tests import tiny


@pytest.mark.parametrize("chunk_bytes", [2**26, 4 * 8 * 5])
def test_chunks_do_not_change_the_result(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prototypes, "_CHUNK_BYTES", chunk_bytes)
    model = tiny.training().model
    z = torch.nn.functional.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)))
    z[4] = torch.nan
    found = prototype_galleries(
        z, torch.arange(50), lambda rows: model.prototypes(rows)[0].detach(), n_prototypes=(8,), n_shown=5, n_images=6
    )
    readable = [i for i in range(50) if i != 4]
    scores = model.prototypes(z[readable])[0].detach()
    counts = torch.bincount(scores.argmax(dim=1), minlength=8)
    assert found.n_prototypes == 8
    assert found.n_used == int((counts > 0).sum())
    assert [one.n_nearest for one in found.galleries] == counts.sort(descending=True).values[:5].tolist()
    for one in found.galleries:
        assert one.n_nearest == counts[one.prototype]
        expected = [readable[i] for i in scores[:, one.prototype].topk(6).indices.tolist()]
        assert list(one.rows) == expected


def test_an_unused_prototype_is_not_shown() -> None:
    z = torch.eye(4)[:2]
    found = prototype_galleries(z, torch.arange(2), lambda rows: rows @ torch.eye(4), n_prototypes=(4, 3), n_shown=10)
    assert [one.prototype for one in found.galleries] == [0, 1]
    assert (found.n_used, found.n_heads) == (2, 2)
