"""The mathematics of patches: a dictionary closed under mirroring, and directions that separate images."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn.functional import normalize

from selfcluster.clustering.patches import CodeMoments, Dictionary, fit_dictionary

CPU = torch.device("cpu")
SIDE = 4
MIRRORED = torch.arange(3 * SIDE * SIDE).view(3, SIDE, SIDE).flip(2).flatten()


@pytest.fixture(scope="module")
def patches() -> torch.Tensor:
    noise = torch.randn(4000, 3, SIDE + 2, SIDE + 2, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(noise, 3, stride=1).flatten(1) * 0.2 + 0.5


@pytest.fixture(scope="module")
def dictionary(patches: torch.Tensor) -> Dictionary:
    return fit_dictionary(patches, MIRRORED, 32, device=CPU)


def cosines(patches: torch.Tensor, dictionary: Dictionary) -> torch.Tensor:
    return normalize(patches @ dictionary.whitening.T) @ dictionary.entries.T


def test_mirroring_a_patch_swaps_the_halves_of_its_code(patches: torch.Tensor, dictionary: Dictionary) -> None:
    of_patches, of_mirrored = cosines(patches, dictionary), cosines(patches[:, MIRRORED], dictionary)
    torch.testing.assert_close(of_mirrored, of_patches.roll(16, dims=1), rtol=0, atol=1e-4)
    assert (of_mirrored - of_patches).abs().mean() > 0.05


def test_a_brighter_patch_has_the_same_code(patches: torch.Tensor, dictionary: Dictionary) -> None:
    torch.testing.assert_close(cosines(patches + 0.3, dictionary), cosines(patches, dictionary), rtol=0, atol=1e-3)


def test_whitened_patches_have_equal_variance_in_all_directions_above_the_floor(patches: torch.Tensor) -> None:
    both = torch.cat([patches, patches[:, MIRRORED]])
    whitened = both @ fit_dictionary(patches, MIRRORED, 32, floor=1e-9, device=CPU).whitening.T
    deviation = whitened.std(dim=0)
    assert int((deviation - 1).abs().lt(0.05).sum()) >= patches.shape[1] - 1  # all but the mean, which is removed


def test_directions_solve_the_eigenproblem_of_the_mirrored_moments() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = (torch.rand(300, 20, 12, generator=generator) < torch.rand(300, 1, 12, generator=generator) / 2).float()
    moments = CodeMoments(12, CPU)
    for part in codes.split(64):
        moments.add(part, torch.arange(20))
    directions, parity = moments.directions(8)
    swapped = np.roll(np.eye(12), 6, axis=0)
    of_images, of_patches = (
        (m + swapped @ m @ swapped.T) / 2
        for m in (
            (codes.mean(1).T @ codes.mean(1) / 300).double().numpy(),
            (codes.flatten(0, 1).T @ codes.flatten(0, 1) / 6000).double().numpy(),
        )
    )
    values = scipy.linalg.eigh(of_images, of_patches, eigvals_only=True)[::-1]
    d = directions.double().numpy()
    np.testing.assert_allclose(np.diag(d @ of_images @ d.T) / np.diag(d @ of_patches @ d.T), values[1:9], rtol=1e-4)
    np.testing.assert_allclose(d @ swapped, parity[:, None].numpy() * d, atol=1e-6)
    assert set(parity.tolist()) == {1.0, -1.0}


def test_entries_that_never_occur_give_finite_directions() -> None:
    codes = torch.zeros(50, 9, 8)
    codes[..., :2] = (torch.rand(50, 9, 2, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    moments = CodeMoments(8, CPU)
    moments.add(codes, torch.arange(9))
    assert moments.directions(4)[0].isfinite().all()
