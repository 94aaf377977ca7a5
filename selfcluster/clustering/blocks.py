"""Points as k-means reads them: a tensor, an array or a memory map, in blocks, each rank with its own rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster import distributed

Points = Tensor | np.ndarray
"""(n, d); a memory map is an array too."""

BLOCK_ROWS, _BLOCK_VALUES = 1 << 13, 1 << 22
"""Largest number of rows, and of values, in a block. Fixed, so that sums do not depend on `chunk_bytes`."""


class PointSource:
    """This rank's points in blocks: on the device, in floating point, shifted to the origin.

    Far from the origin, float32 loses the digits in which distances differ. Where the mean is longer than the points' spread, it is
    therefore subtracted.
    """

    def __init__(self, points: Points, device: torch.device | str | None, spherical: bool) -> None:
        if points.ndim != 2:
            raise ValueError(f"points must be (n, d), got shape {tuple(points.shape)}")
        self.points, self.spherical = points, spherical
        self.n, self.d = int(points.shape[0]), int(points.shape[1])
        self.device = torch.device(device) if device is not None else points.device if isinstance(points, Tensor) else torch.device("cpu")
        self.dtype = dtype_of(points)
        self.sum_dtype = torch.float32 if self.device.type == "mps" else torch.float64
        """Type in which sums are taken."""
        self.n_total, self.first = self.n, 0
        """Rows of all ranks, and the number of this rank's first among them, once `survey` has counted them."""
        self.shift: Tensor | None = None
        self.is_unit = False
        """Whether the rows of all ranks already have unit norm."""
        self.squares = 0.0
        """Sum of the squared lengths of all ranks' rows, after the shift."""
        self._step = max(1, min(BLOCK_ROWS, _BLOCK_VALUES // max(1, self.d)))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield all rows, shifted, with their place."""
        for start in range(0, self.n, self._step):
            where = slice(start, min(self.n, start + self._step))
            yield where, self.shifted(self._floating(self.points[where]))

    def rows(self, index: Tensor) -> Iterator[Tensor]:
        """Yield these rows in blocks, without the shift."""
        for part in index.split(self._step):
            yield self._floating(self._taken(part))

    def _taken(self, index: Tensor) -> Points:
        return self.points[index.to(self.points.device) if isinstance(self.points, Tensor) else index.cpu().numpy()]

    def _floating(self, block: Points) -> Tensor:
        if not isinstance(block, Tensor):
            block = np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("="))
            block = torch.from_numpy(block if block.flags.writeable else block.copy())
        block = block.detach().to(self.device, self.dtype).contiguous()
        if not self.spherical or self.is_unit:
            return block
        # In float64, since large float32 rows have no float32 norm, and so that rows of one direction become equal.
        return normalize(block.to(self.sum_dtype)).to(self.dtype)

    def survey(self) -> None:
        """Count the rows of all ranks, check in one pass that every value is finite, and decide on the shift; collective.

        Raises:
            ValueError: some value is not finite.
        """
        counts = distributed.gather_rows(torch.tensor([self.n], device=self.device)).tolist()
        self.n_total, self.first = sum(counts), sum(counts[: distributed.rank()])
        total = torch.zeros(self.d + 1, dtype=self.sum_dtype, device=self.device)
        finite, is_unit, self.is_unit = True, True, True  # read rows as they are
        # The squared distance of two opposite corners must be finite.
        largest = torch.finfo(self.dtype).max if self.spherical else (torch.finfo(self.dtype).max / 4 / max(1, self.d)) ** 0.5
        for _, block in self.blocks():
            wide = block.to(self.sum_dtype)
            finite = finite and bool(torch.stack(torch.aminmax(block)).abs().max() <= largest)  # the fastest check; false for NaN
            is_unit = is_unit and self.spherical and bool(((wide.square().sum(dim=1) - 1).abs() < 1e-6).all())
            total += torch.cat([block.sum(dim=0, dtype=self.sum_dtype), torch.dot(wide.flatten(), wide.flatten())[None]])
        if distributed.any_rank(not finite):
            raise ValueError("points contain a value that is not finite, or too large to be squared; leave out such rows")
        self.is_unit = not distributed.any_rank(not is_unit)
        total = distributed.all_reduce_sum(total)
        self.squares = float(total[-1])
        self.shift_by_mean(total[:-1], self.squares, self.n_total)
        if self.shift is not None:
            shifted = sum((block.to(self.sum_dtype).square().sum() for _, block in self.blocks()), torch.zeros_like(total[0]))
            self.squares = float(distributed.all_reduce_sum(shifted))

    def shift_by_mean(self, total: Tensor, squares: float, n: int) -> None:
        """Subtract the mean of n rows from all blocks from here on, if it is longer than the rows' spread."""
        mean = total / n
        length = float(mean.square().sum()) * n
        if not self.spherical and length > squares - length:
            self.shift = mean.to(self.dtype)

    def as_centroids(self, centroids: Tensor) -> Tensor:
        """Return centroids on the points' device, in their type, and of unit norm if spherical."""
        centroids = centroids.detach().to(self.device, self.dtype)
        return normalize(centroids) if self.spherical else centroids.clone()

    def shifted(self, rows: Tensor) -> Tensor:
        """Shift points or centroids as `blocks` shifts points."""
        return rows if self.shift is None else rows - self.shift

    def of_all_ranks(self, index: np.ndarray) -> Tensor:
        """Return points by their number over all ranks, on every rank, without the shift."""
        out = torch.zeros(len(index), self.d, dtype=self.dtype, device=self.device)
        mine = np.flatnonzero((index >= self.first) & (index < self.first + self.n))
        out[torch.from_numpy(mine).to(self.device)] = self._floating(self._taken(torch.from_numpy(index[mine] - self.first)))
        return distributed.all_reduce_sum(out)

    def of_rank(self, owner: int, row: int) -> Tensor:
        """Return one row of one rank, on every rank, without the shift."""
        point = torch.zeros(1, self.d, dtype=self.dtype, device=self.device)
        if owner == distributed.rank():
            point += self._floating(self._taken(torch.tensor([row])))
        return distributed.all_reduce_sum(point)[0]


def dtype_of(points: Points) -> torch.dtype:
    """Return the type that points are computed in: float64 for float64, else float32."""
    is_double = points.dtype == torch.float64 if isinstance(points, Tensor) else points.dtype.newbyteorder("=") == np.float64
    return torch.float64 if is_double else torch.float32
