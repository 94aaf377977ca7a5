"""Settings that cannot be are refused in one line."""

from __future__ import annotations

import pytest

from selfcluster.errors import ConfigError
from selfcluster.settings.config import default_config, replace
from selfcluster.settings.validation import check


@pytest.mark.parametrize(
    "values",
    [
        {"n_crops": (2, 6, 1)},
        {"n_crops": (1,), "crop_pixels": (32,), "area": ((0.1, 1.0),)},
        {"area": ((0.0, 1.0), (0.1, 0.2))},
        {"crop_pixels": (2, 2)},
        {"flip": 1.5},
        {"hue": 0.6},
        {"blur_sigma": (2.0, 1.0)},
        {"batch": 0},
        {"epochs": 0},
        {"lr": -1.0},
        {"n_prototypes": 1},
        {"epsilon": 0.0},
        {"temperature": -0.1},
        {"queue_length": 100, "batch": 64},
        {"lr": float("nan")},
        {"seed": -1},
        {"test_share": 1.0},
        {"workers": -2},
        {"batch": 2**70},
        {"crop_pixels": (2**70, 16)},
        {"seed": 2**70},
        {"keep_checkpoints": 0},
        {"rank_timeout": 1.0},
    ],
)
def test_check_refuses_in_one_line_with_the_value(values: dict) -> None:
    config = replace(default_config("swav"), values)
    with pytest.raises(ConfigError) as error:
        check(config)
    assert "\n" not in str(error.value)
    assert next(iter(values)) in str(error.value)


def test_defaults_pass_the_check() -> None:
    check(default_config("swav"))
