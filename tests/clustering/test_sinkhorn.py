from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from selfcluster.clustering.sinkhorn import Balance, log_potentials, sinkhorn
from tests import reference
from tests.ranks import on_ranks


def _scores(n: int, k: int) -> Tensor:
    return torch.from_numpy(reference.cosine_scores(n, k))


def _random_scores(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.rand(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_exact_values_at_the_papers_epsilon() -> None:
    codes = sinkhorn(_scores(6, 4), epsilon=0.05, iterations=3)
    assert codes[0].tolist() == pytest.approx([0.99999917, 8.33178e-07, 1.0692e-14, 1.2008e-15], rel=1e-4)
    assert codes[3].tolist() == pytest.approx([9.81e-15, 0.99992988, 5.28e-14, 7.0120e-05], rel=1e-3)
    assert codes[0, 0].item() == pytest.approx(0.99999917, abs=5e-9)
    assert codes[3, 1].item() == pytest.approx(0.99992988, abs=5e-9)
    assert codes.sum(dim=0).tolist() == pytest.approx([1.000006, 1.999902, 2.000000, 1.000092], abs=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "row"), [(0.5, [0.8408946, 0.1194251, 0.0194483, 0.0202320]), (1.0, [0.5771134, 0.2300427, 0.1042631, 0.0885808])]
)
def test_exact_values_at_softer_epsilon(epsilon: float, row: list[float]) -> None:
    assert sinkhorn(_scores(6, 4), epsilon=epsilon, iterations=3)[0].tolist() == pytest.approx(row, abs=1e-7)


def test_the_defaults_are_the_papers() -> None:
    assert torch.equal(sinkhorn(_scores(6, 4)), sinkhorn(_scores(6, 4), epsilon=0.05, iterations=3))


@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize(("n", "k"), [(7, 5), (3, 8), (1, 4), (5, 1)])
def test_equals_the_naive_loop(n: int, k: int, iterations: int) -> None:
    scores = _random_scores(n, k)
    expected = reference.sinkhorn(scores.numpy(), 0.2, iterations)
    np.testing.assert_allclose(sinkhorn(scores, epsilon=0.2, iterations=iterations).numpy(), expected, rtol=1e-9, atol=1e-15)


def test_rows_sum_to_one_and_columns_approach_their_share() -> None:
    scores = _random_scores(40, 6)
    few, many = (sinkhorn(scores, iterations=i) for i in (3, 300))
    torch.testing.assert_close(few.sum(dim=1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(many.sum(dim=1), torch.ones(40, dtype=torch.float64))
    assert (few.sum(dim=0) - 40 / 6).abs().max() > 0.05, "three iterations are far from balance, by the method"
    assert (many.sum(dim=0) - 40 / 6).abs().max() < 1e-3


def test_constant_scores_give_uniform_codes() -> None:
    torch.testing.assert_close(sinkhorn(torch.full((5, 8), 0.3)), torch.full((5, 8), 1 / 8))


def test_what_changes_nothing_and_what_does() -> None:
    scores = _random_scores(9, 5)
    codes = sinkhorn(scores)
    torch.testing.assert_close(sinkhorn(scores + 0.37), codes)
    torch.testing.assert_close(sinkhorn(scores + torch.linspace(-1, 1, 5, dtype=torch.float64)), codes)
    per_sample = sinkhorn(scores + torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None])
    assert (per_sample - codes).abs().max() > 1e-3


def test_order_of_samples_and_prototypes_only_orders_the_codes() -> None:
    scores = _random_scores(9, 5)
    rows, columns = torch.randperm(9, generator=torch.Generator().manual_seed(1)), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(sinkhorn(scores[rows][:, columns]), sinkhorn(scores)[rows][:, columns])


@pytest.mark.parametrize(
    ("given", "returned"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_precision(given: torch.dtype, returned: torch.dtype) -> None:
    scores = _scores(6, 4).to(given)
    codes = sinkhorn(scores)
    assert codes.dtype == returned
    torch.testing.assert_close(codes.double(), sinkhorn(scores.double()), rtol=1e-3, atol=1e-5)


def test_extreme_scores_neither_overflow_nor_underflow() -> None:
    scores = _random_scores(32, 10).sign().float()
    scores[0], scores[1], scores[:, 2] = -1, 1, -1
    codes = sinkhorn(scores, epsilon=0.01)
    assert torch.isfinite(codes).all()
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(32))
    torch.testing.assert_close(codes.double(), sinkhorn(scores.double(), epsilon=0.01), rtol=1e-3, atol=1e-5)


def test_has_no_gradient() -> None:
    assert not sinkhorn(_scores(6, 4).requires_grad_()).requires_grad


def test_does_not_change_the_scores() -> None:
    scores = _scores(6, 4).float()
    before = scores.clone()
    sinkhorn(scores)
    assert torch.equal(scores, before)


@pytest.mark.parametrize(("settings", "value"), [({"epsilon": 0.0}, "0.0"), ({"epsilon": -1.0}, "-1.0"), ({"iterations": 0}, "0")])
def test_refuses_settings_out_of_range(settings: dict, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        sinkhorn(_scores(6, 4), **settings)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_refuses_scores_that_are_not_finite(bad: float) -> None:
    scores = _scores(6, 4)
    scores[2, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        sinkhorn(scores)


def _codes_of_part(scores: Tensor, first_rows: int) -> Tensor:
    from selfcluster import distributed

    part = scores[:first_rows] if distributed.rank() == 0 else scores[first_rows:]
    return sinkhorn(part, epsilon=0.05, iterations=3)


@pytest.mark.parametrize("first_rows", [6, 9, 0])
def test_two_ranks_equal_one_on_the_joined_rows(first_rows: int) -> None:
    scores = _random_scores(12, 5).float()
    torch.testing.assert_close(torch.cat(on_ranks(_codes_of_part, scores, first_rows)), sinkhorn(scores), rtol=1e-5, atol=1e-7)


# ---- over a data set ----------------------------------------------------------------------------------------------------------


def _codes(scores: Tensor, balance: Balance, epsilon: float = 0.05) -> Tensor:
    return torch.softmax(scores / epsilon + balance.log_potentials, dim=1)


def _mass_error(codes: Tensor) -> float:
    n, k = codes.shape
    return float((codes.double().sum(dim=0) / (n / k) - 1).abs().max())


def _unit_scores(n: int, k: int, width: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, width, generator=draw)) @ normalize(torch.randn(k, width, generator=draw)).T


def test_log_potentials_of_one_part_give_the_codes_of_the_batch_form() -> None:
    scores = _random_scores(12, 5)
    balance = log_potentials(lambda: [scores], 5, epsilon=0.05, iterations=3)
    assert torch.equal(_codes(scores, balance), sinkhorn(scores))
    assert balance.n_iterations == 3


@pytest.mark.parametrize("parts", [1, 5, [1, 9, 2], [0, 12], 12])
def test_any_parts_give_the_same(parts: int | list[int]) -> None:
    scores = _random_scores(12, 5)
    balance = log_potentials(lambda: scores.split(parts), 5, epsilon=0.05, iterations=3)
    torch.testing.assert_close(_codes(scores, balance), sinkhorn(scores), rtol=1e-10, atol=1e-14)


def test_stops_as_soon_as_every_mass_is_within_the_tolerance() -> None:
    scores = _unit_scores(400, 20, 8)

    def after(iterations: int, tolerance: float | None) -> Balance:
        return log_potentials(lambda: scores.split(64), 20, epsilon=0.05, iterations=iterations, tolerance=tolerance)

    balance = after(1000, 0.01)
    assert 3 < balance.n_iterations < 100
    assert _mass_error(_codes(scores, balance)) <= 0.01
    assert balance.mass_error == pytest.approx(_mass_error(_codes(scores, balance)), rel=1e-2)
    assert _mass_error(_codes(scores, after(balance.n_iterations - 1, None))) > 0.01, "one iteration fewer does not suffice"
    assert torch.equal(after(balance.n_iterations, 0.01).log_potentials, balance.log_potentials)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_mass_error_is_returned_if_iterations_do_not_suffice(iterations: int) -> None:
    scores = _unit_scores(400, 20, 8)
    balance = log_potentials(lambda: [scores], 20, epsilon=0.05, iterations=iterations, tolerance=0.01)
    assert balance.n_iterations == iterations
    assert balance.mass_error == pytest.approx(_mass_error(_codes(scores, balance)), rel=1e-2)
    assert balance.mass_error > 0.01
    assert torch.equal(_codes(scores, balance), sinkhorn(scores, iterations=iterations))


def test_three_iterations_leave_a_quarter_and_ten_about_a_hundredth() -> None:
    scores = _unit_scores(5000, 100, 10)
    three, ten = (_mass_error(sinkhorn(scores, iterations=n)) for n in (3, 10))
    assert three == pytest.approx(0.25, abs=0.08)
    assert ten == pytest.approx(0.01, abs=0.01)


class _Largest(TorchDispatchMode):
    """Records the number of values of the largest tensor created inside."""

    n = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        self.n = max([self.n, *(x.numel() for x in (made if isinstance(made, tuple | list) else [made]) if isinstance(x, Tensor))])
        return made


def test_scores_of_all_samples_are_never_in_memory_together() -> None:
    scores = np.ascontiguousarray(_unit_scores(600, 20, 8).numpy())  # where torch does not see them

    with _Largest() as largest:
        log_potentials(
            lambda: (torch.from_numpy(scores[start : start + 50]) for start in range(0, 600, 50)),
            20,
            epsilon=0.05,
            iterations=50,
            tolerance=0.01,
        )
    assert largest.n == 50 * 20


def _balance_of_part(scores: Tensor, splits: list[int], tolerance: float) -> list[Balance]:
    from selfcluster import distributed

    found = []
    for first_rows in splits:
        part = scores[:first_rows] if distributed.rank() == 0 else scores[first_rows:]
        chunks = [chunk for chunk in part.split(7) if len(chunk)]
        device = torch.device("cpu")
        found.append(log_potentials(lambda chunks=chunks: chunks, 5, epsilon=0.05, iterations=500, tolerance=tolerance, device=device))  # type: ignore[misc]
    return found


def test_two_ranks_with_unequal_parts_or_with_none_equal_one() -> None:
    scores = _unit_scores(40, 5, 8)
    alone = log_potentials(lambda: [scores], 5, epsilon=0.05, iterations=500, tolerance=0.01)
    left, right = on_ranks(_balance_of_part, scores, [20, 33, 0, 40], 0.01)
    for on_left, on_right in zip(left, right, strict=True):
        assert torch.equal(on_left.log_potentials, on_right.log_potentials)
        assert on_left.n_iterations == on_right.n_iterations == alone.n_iterations
        torch.testing.assert_close(on_left.log_potentials, alone.log_potentials, rtol=1e-5, atol=1e-5)
        assert on_left.mass_error == pytest.approx(alone.mass_error, rel=1e-2)
