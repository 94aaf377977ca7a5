"""Rows are kept by the index of their image, in memory or in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from selfcluster.models.rows import Rows, RowsByIndex, map_rows

CPU = torch.device("cpu")
INDEX = np.array([1, 4, 5, 8, 9, 20])


def _collected(tmp_path: Path, *, memory_bytes: float, order: list[int], index: np.ndarray = INDEX) -> Rows:
    """Rows whose values are their index, put in this order, two at a time."""
    collected = RowsByIndex(index, memory_bytes=memory_bytes, folder=tmp_path)
    for start in range(0, len(order), 2):
        part = np.array(order[start : start + 2])
        collected.put(part, torch.from_numpy(part)[:, None, None] * torch.ones(2, 3))
    return collected.rows()


@pytest.mark.parametrize("memory_bytes", [np.inf, 0])
@pytest.mark.parametrize("order", [[1, 4, 5, 8, 9, 20], [20, 5, 1, 9, 4, 8], [9, 4, 20], [8], []])
def test_rows_are_stored_by_index_in_any_order_and_with_gaps(tmp_path: Path, order: list[int], memory_bytes: float) -> None:
    rows = _collected(tmp_path, memory_bytes=memory_bytes, order=order)
    assert rows.index.tolist() == sorted(order)
    assert rows.values.dtype == np.float32
    assert len(rows.values) == len(order)
    if order:
        assert rows.values.shape[1:] == (2, 3)
        assert (rows.values == np.sort(order)[:, None, None]).all()


def test_gaps_are_closed_block_by_block(tmp_path: Path) -> None:
    index = np.arange(0, 27000, 3)
    there = np.delete(index, [0, 5, 4097, 8999])
    collected = RowsByIndex(index, memory_bytes=0, folder=tmp_path)
    collected.put(there, torch.from_numpy(there).float()[:, None])
    rows = collected.rows()
    assert np.array_equal(rows.index, there)
    assert np.array_equal(rows.values[:, 0], there)


def test_above_the_budget_rows_are_in_a_file_that_deletes_itself(tmp_path: Path) -> None:
    n_bytes = len(INDEX) * 6 * 4
    within, above = (_collected(tmp_path, memory_bytes=n, order=INDEX.tolist()) for n in (n_bytes, n_bytes - 1))
    assert not isinstance(within.values, np.memmap)
    assert isinstance(above.values, np.memmap)
    assert Path(above.values.filename).parent == tmp_path
    assert list(tmp_path.iterdir()) == [], "deleted already, however the run ends"
    assert np.array_equal(within.values, above.values)


@pytest.mark.parametrize("memory_bytes", [np.inf, 0])
def test_mapped_rows_are_in_memory_or_a_file_as_the_given_ones_are(tmp_path: Path, memory_bytes: float) -> None:
    index = np.arange(9000)
    collected = RowsByIndex(index, memory_bytes=memory_bytes, folder=tmp_path)
    collected.put(index[1:], torch.from_numpy(index[1:]).float()[:, None].expand(-1, 3))
    n_rows = []

    def sums(block: Tensor) -> Tensor:
        n_rows.append(len(block))
        return block.sum(dim=1, keepdim=True) + 1

    mapped = map_rows(collected.rows(), sums, CPU)
    assert isinstance(mapped.values, np.memmap) == (memory_bytes == 0)
    assert np.array_equal(mapped.index, index[1:])
    assert np.array_equal(mapped.values[:, 0], 3.0 * index[1:] + 1)
    assert max(n_rows) < 5000
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_mapped_to_no_rows_of_the_right_width() -> None:
    rows = map_rows(Rows(np.empty(0, dtype=np.int64), np.empty((0, 4), dtype=np.float32)), lambda block: block[:, :3], CPU)
    assert len(rows.index) == 0
    assert rows.values.shape == (0, 3)
