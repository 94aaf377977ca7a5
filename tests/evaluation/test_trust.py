"""Four green ticks over nonsense are impossible: tests of encoders that know nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import selfcluster as sc
from selfcluster.clustering.duplicates import thumbnails
from selfcluster.clustering.kmeans import kmeans
from selfcluster.data.crops import normalize
from selfcluster.data.sources import open_data
from selfcluster.evaluation.trust import Trust, measure, without_color
from selfcluster.reporting.report import _new_clusters, _trust
from selfcluster.reporting.verdict import judge
from selfcluster.settings.config import DataSettings, default_config, replace
from tests import tiny

SWAV = replace(default_config("swav"), {"epochs": 50})
HEALTHY: list[dict[str, float]] = [
    {"step": 100.0 * i, "epoch": float(i), "train/loss": 2 + 2 * 0.8**i, "collapse/mean_embedding": 0.1, "collapse/code_entropy": 0.4}
    for i in range(1, 51)
] + [{"step": 5000.0, "epoch": 50.0, "collapse/rankme": 200.0}]


def scenes(n: int = 96) -> np.ndarray:
    """Two gratings each, of directions of their own, in one of four tints."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32] / 32
    angle, phase = rng.uniform(0, np.pi / 2, (n, 2, 1, 1)), rng.uniform(0, 2 * np.pi, (n, 2, 1, 1))
    waves = np.sin(2 * np.pi * 6 * (x * np.cos(angle) + y * np.sin(angle)) + phase).mean(axis=1)
    tints = np.array([[1, 0.2, 0.2], [0.2, 1, 0.2], [0.2, 0.2, 1], [1, 1, 0.2]])[np.arange(n) % 4]
    return (255 * (0.7 + 0.25 * waves[..., None]) * tints[:, None, None]).astype(np.uint8)


def histogram(pixels: Tensor) -> Tensor:
    codes = ((pixels.clamp(-2, 2) + 2) * 0.99).long()
    return torch.nn.functional.one_hot((codes[:, 0] * 16 + codes[:, 1] * 4 + codes[:, 2]).flatten(1), 64).float().mean(dim=1).sqrt()


def shapes(pixels: Tensor) -> Tensor:
    """What a good encoder sees: how much goes in each direction, wherever and in whatever color."""
    gray = pixels.mean(dim=1)
    energy = torch.fft.fft2(gray - gray.mean(dim=(1, 2), keepdim=True)).abs().square()
    frequency = torch.fft.fftfreq(gray.shape[-1])
    direction = torch.atan2(frequency.abs()[:, None], frequency.abs()[None])
    bins = torch.linspace(0, torch.pi / 2, 24)[:, None, None]
    weights = torch.exp(-0.5 * ((direction - bins) / 0.06) ** 2)
    return torch.nn.functional.normalize(torch.einsum("nhw,bhw->nb", energy, weights)).sqrt()


def trust_of(encode: Callable[[Tensor], Tensor], clusters: Tensor | None = None) -> Trust:
    images = open_data(scenes(), DataSettings()).images
    whole = normalize(torch.from_numpy(scenes()).permute(0, 3, 1, 2))
    features = encode(whole)
    if clusters is None:
        clusters = kmeans(features - features.mean(dim=0), 4, spherical=True, seed=0).assignments
    found = measure(encode, images, np.arange(96), features, thumbnails(whole), clusters, pixels=32)
    assert found is not None
    return found


def state(trust: Trust) -> str:
    return judge(HEALTHY, SWAV, trust=trust).state


def test_metrics_alone_would_call_it_healthy() -> None:
    assert judge(HEALTHY, SWAV).state == "healthy"


def test_a_color_histogram_is_doubtful() -> None:
    found = trust_of(histogram)
    assert found.found <= found.found_by_pixels
    assert found.cluster_by_color > 0.9
    assert state(found) == "doubtful"
    texts = [sign.text for sign in judge(HEALTHY, SWAV, trust=found).signs if sign.means == "doubt"]
    assert any("Clusters follow only color" in text for text in texts)


def test_clusters_of_color_are_doubtful_whatever_the_encoder_knows() -> None:
    assert state(trust_of(shapes, torch.arange(96) % 4)) == "doubtful"


def test_an_encoder_that_recognizes_shapes_is_not() -> None:
    found = trust_of(shapes)
    assert found.found > found.found_by_pixels
    assert state(found) == "healthy"


@pytest.mark.parametrize("steps", [1, 20])
def test_an_untrained_encoder_and_one_of_20_steps_are_doubtful(steps: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**tiny.SETTINGS, "crop_pixels": (32, 16), "max_steps": steps, "epochs": 50, "on_collapse": "warn"}
    run = sc.train(scenes(), out=tmp_path / "run", **settings)
    data = run.opened.data(scenes())
    found = _trust(run.opened, data, _new_clusters(run.opened, data, 4, 0))
    assert found is not None
    assert state(found) == "doubtful"


def test_a_frozen_encoder_is_tested_too() -> None:
    explored = default_config("explore")
    assert judge([], explored).state == "not trained"
    assert judge([], explored, trust=trust_of(shapes)).state == "not trained"
    assert judge([], explored, trust=trust_of(histogram)).state == "doubtful"


def test_few_images_are_not_trust_of() -> None:
    images = open_data(scenes(31), DataSettings()).images
    rows = torch.zeros(31, 192)
    assert measure(shapes, images, np.arange(31), rows, rows, torch.zeros(31, dtype=torch.long), pixels=32) is None


def test_without_color_is_gray_of_the_same_size_and_repeatable() -> None:
    images, draws = (
        torch.from_numpy(scenes(8)).permute(0, 3, 1, 2),
        torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    )
    gray = without_color(images, draws, mirror=True)
    assert gray.shape == images.shape
    assert torch.equal(gray[:, 0], gray[:, 2])
    assert torch.equal(gray, without_color(images, draws, mirror=True))
    assert (gray.float().mean(dim=(1, 2, 3)) - 127.5).abs().max() < 2
    draws[:, 3] = 0.1
    torch.testing.assert_close(
        without_color(images, draws, mirror=True), without_color(images, draws, mirror=False).flip(-1), atol=1, rtol=0
    )
