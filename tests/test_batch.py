from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from selfcluster.batch import Batch, EpochPlan


def test_occurrence_counts_earlier_places_of_the_same_index() -> None:
    plan = EpochPlan(np.array([4, 2, 4, 4, 0, 2]))
    assert plan.occurrence.tolist() == [0, 0, 1, 2, 0, 1]


def test_occurrence_of_a_long_order() -> None:
    order = np.random.default_rng(0).integers(0, 50, size=1000)
    seen: dict[int, int] = {}
    expected = []
    for index in order.tolist():
        expected.append(seen.get(index, 0))
        seen[index] = expected[-1] + 1
    assert EpochPlan(order).occurrence.tolist() == expected


@pytest.mark.parametrize("order", [[], [7], [3, 1, 2]])
def test_occurrence_is_zero_where_nothing_repeats(order: list[int]) -> None:
    assert EpochPlan(np.array(order, dtype=np.int64)).occurrence.tolist() == [0] * len(order)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EpochPlan(np.arange(3)).order = np.arange(4)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batch(torch.arange(2), [torch.zeros(2, 3, 4, 4)]).index = torch.arange(3)  # type: ignore[misc]
