from __future__ import annotations

from typing import Any

import pytest

from selfcluster.settings.choices import Facts
from selfcluster.settings.config import METHOD_SETTINGS, default_config, replace
from selfcluster.settings.presets import PRESETS
from selfcluster.settings.recipe import recipe
from selfcluster.settings.suspects import suspects


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("swav", {"epsilon": 10.0}, "epsilon 10 is far above the paper's 0.05"),
        ("sela-v2", {"temperature": 50.0}, "temperature 50 is far above the paper's 0.1"),
        ("deepcluster", {"lr": 400.0, "optimizer": "sgd"}, "lr 400 is far above what sgd bears"),
        ("deepcluster", {"top_lr": 100.0}, "top_lr 100 is far above the paper's 0.05"),
        ("swav", {"n_prototypes": 3000, "batch": 32}, "n_prototypes 3000 is 94 times the batch"),
        ("deepcluster-v2", {"n_prototypes": (1500,)}, "n_prototypes 1500 leaves 1.2 images for each"),
    ],
)
def test_what_is_far_off_is_named_with_the_way_out(method: str, settings: dict[str, Any], says: str) -> None:
    config = replace(default_config(method), {"n_prototypes": 30, "batch": 64, "lr": 0.5, **settings})
    (found,) = suspects(config, 1800)
    assert found.startswith(says)
    assert "; lower it" in found or "; use fewer" in found


@pytest.mark.parametrize("method", METHOD_SETTINGS)
@pytest.mark.parametrize(("n", "side"), [(200, 8), (1800, 8), (5000, 128), (50_000, 32), (1_000_000, 224)])
@pytest.mark.parametrize("accelerated", [False, True])
def test_the_recipe_is_not_suspected(method: str, n: int, side: int, accelerated: bool) -> None:
    facts = Facts(n=n, short_side=side, is_grey=False, mirror_distance=1.0, accelerated=accelerated)
    choices = recipe(facts, default_config(method), given=())
    config = replace(default_config(method), {name: choice.value for name, choice in choices.items()})
    assert suspects(config, n) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_the_papers_settings_are_not_suspected(preset: str) -> None:
    assert suspects(PRESETS[preset](), 1_281_167) == []
