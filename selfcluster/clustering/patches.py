"""Patches: a representation of images by clustering small patches of them, without a network, a gradient or labels.

Patches are whitened and scaled to unit norm. Spherical k-means on a sample of them gives a dictionary; the code of a patch says which entries
are near it. Entries that occur in the same images are alike: the directions that separate images best, relative to how they separate patches,
solve an eigenproblem of two moments of the codes. Both moments are k x k, whatever the number of images.

The dictionary contains the mirror image of each of its entries. A direction is then either even (mirroring an image mirrors its values) or odd
(it also negates them), and so the features of an image and its mirror image can be joined without computing both.

Sources: Coates and Ng, "Learning feature representations with k-means", 2012; Sparse Manifold Transform, arXiv 1806.08887 and 2209.15261.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.whitening import blocks_of

_ITERATIONS = 20
_RIDGE = 1e-6
"""Smallest eigenvalue of the second moment of codes, as a share of the largest, so that entries that never occur have no direction."""


@dataclass(frozen=True)
class Dictionary:
    """Entries that patches are compared with."""

    whitening: Float[Tensor, "d d"]
    """Rows map a patch to whitened components; the mean of a patch is removed."""
    entries: Float[Tensor, "k d"]
    """Unit rows of whitened components; the second half are the mirror images of the first."""


def fit_dictionary(
    patches: Float[Tensor, "n d"], mirrored: Int64[Tensor, " d"], k: int, *, floor: float = 1e-3, seed: int = 0, device: torch.device
) -> Dictionary:
    """Whiten patches and cluster their directions.

    Args:
        patches: sampled from the images, pixels in [0, 1].
        mirrored: index of the pixel that takes the place of each pixel in the mirrored patch.
        k: entries, an even number; half of them are found by k-means, the others are their mirror images.
        floor: added to the eigenvalues of the patches' covariance.
        seed: random seed of k-means.
        device: where to compute.
    """
    patches, d = patches.to(device), patches.shape[1]
    covariance = torch.zeros(d, d, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    for block in blocks_of(patches, device):
        centered = (block - block.mean(dim=1, keepdim=True)).to(covariance.dtype)
        covariance += centered.T @ centered
    covariance = (covariance / len(patches)).cpu().float().double()  # without the last digits, which depend on the order of the sum
    values, components = torch.linalg.eigh((covariance + covariance[mirrored][:, mirrored]) / 2)
    sign = (components * components[mirrored]).sum(dim=0).sign().float()  # mirroring a patch negates its odd components
    rows = components * (values.clamp(min=0) + floor).rsqrt()
    whitening = (rows - rows.mean(dim=0)).T.float()
    whitened = normalize(patches @ whitening.to(device).T)
    found = kmeans(whitened, k // 2, spherical=True, iterations=_ITERATIONS, seed=seed).centroids.cpu().float()
    return Dictionary(whitening, torch.cat([found, found * sign]))


class CodeMoments:
    """Second moments of codes: of single patches, and of the mean of all patches of an image.

    Args:
        k: width of the codes.
        device: where to sum.
    """

    def __init__(self, k: int, device: torch.device) -> None:
        self.of_patches, self.of_images = torch.zeros(k, k, device=device), torch.zeros(k, k, device=device)
        self.n_patches = self.n_images = 0

    def add(self, codes: Float[Tensor, "n p k"], sampled: Int64[Tensor, " s"]) -> None:
        """Add the codes of the patches of n images; these patches of each count as single ones."""
        patches, images = codes[:, sampled].flatten(0, 1).float(), codes.float().mean(dim=1)
        self.of_patches += patches.T @ patches
        self.of_images += images.T @ images
        self.n_patches, self.n_images = self.n_patches + len(patches), self.n_images + len(images)

    def directions(self, n: int) -> tuple[Float[Tensor, "n k"], Float[Tensor, " n"]]:
        """Return the directions in which the mean of an image varies most relative to its patches, and their parity, 1 or -1.

        The constant direction, which is even and leads all others, is left out.
        """
        patches, images = (self.of_patches / self.n_patches).cpu().double(), (self.of_images / self.n_images).cpu().double()
        half = len(patches) // 2
        solved = []
        for parity in (1, -1):
            values, vectors = _generalized_eigenvectors(_folded(images, parity), _folded(patches, parity))
            kept = slice(None, half - 1) if parity == 1 else slice(None)
            vectors = vectors[:, kept].T
            solved.append((values[kept], torch.cat([vectors, parity * vectors], dim=1), torch.full((len(vectors),), float(parity))))
        values, vectors, parities = (torch.cat(parts) for parts in zip(*solved, strict=True))
        leading = values.argsort(descending=True)[:n]
        return vectors[leading].float(), parities[leading].float()


def _folded(moment: Float[Tensor, "k k"], parity: int) -> Float[Tensor, "h h"]:
    """Return a moment restricted to even or odd directions, whose second half is plus or minus the first."""
    half = len(moment) // 2
    (a, b), (c, d) = (rows.split(half, dim=1) for rows in moment.split(half))
    return (a + d + parity * (b + c)) / 2


def _generalized_eigenvectors(a: Float[Tensor, "h h"], b: Float[Tensor, "h h"]) -> tuple[Float[Tensor, " h"], Float[Tensor, "h h"]]:
    """Solve a v = value b v; values ascending, vectors as columns of unit length under b."""
    values, vectors = torch.linalg.eigh(b)
    root = (vectors * (values.clamp(min=0) + _RIDGE * values[-1]).rsqrt()) @ vectors.T
    values, vectors = torch.linalg.eigh(root @ a @ root)
    return values, root @ vectors
