from __future__ import annotations

import dataclasses

import pytest

from selfcluster.config import AUGMENTATIONS, CHANGEABLE_ON_RESUME, check, default_config, flatten, groups, replace
from selfcluster.errors import ConfigError, known


def test_setting_names_are_unique_over_all_groups() -> None:
    names = [f.name for group in groups(default_config("swav")).values() for f in dataclasses.fields(group)]
    assert len(names) == len(set(names))
    assert set(names) >= CHANGEABLE_ON_RESUME


def test_every_setting_has_a_help_text() -> None:
    import ast
    import inspect

    from selfcluster import config

    for node in ast.parse(inspect.getsource(config)).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
            for field, text in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(text, ast.Expr), f"{node.name}.{field.target.id}"


def test_defaults_are_the_papers() -> None:
    values = flatten(default_config("swav"))
    assert values["n_prototypes"] == 3000
    assert values["epsilon"] == 0.05
    assert values["temperature"] == 0.1
    assert values["area"] == ((0.14, 1.0), (0.05, 0.14))
    assert AUGMENTATIONS["glyph"].flip == AUGMENTATIONS["glyph"].hue == AUGMENTATIONS["glyph"].grey == 0


def test_replace_accepts_what_toml_and_python_give() -> None:
    config = replace(default_config("swav"), {"n_crops": [2, 3], "lr": 1, "area": [[0.1, 1], [0.2, 0.3]]})
    assert config.crops.n_crops == (2, 3)
    assert replace(default_config("sela-v2"), {"n_prototypes": 30}).n_prototypes == (30,)
    assert config.optim.lr == 1.0
    assert isinstance(config.optim.lr, float)
    assert config.crops.area == ((0.1, 1.0), (0.2, 0.3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_cropz": (2,)}, "unknown setting 'n_cropz'; did you mean 'n_crops'?"),
        ({"augmentation": "phot"}, "did you mean 'photo'?"),
        ({"lr": "x"}, "lr 'x' must be a number"),
        ({"epochs": 1.5}, "epochs 1.5 must be a whole number"),
        ({"tensorboard": 1}, "tensorboard 1 must be true or false"),
        ({"n_crops": 2.5}, "n_crops 2.5 must be"),
        ({"blur_sigma": (1.0, 2.0, 3.0)}, "blur_sigma (1.0, 2.0, 3.0) must be"),
    ],
)
def test_replace_refuses(values: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        replace(default_config("swav"), values)
    assert message in str(error.value)


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


def test_known_names_the_nearest() -> None:
    assert known("a", ["a"], "letter") == "a"
    with pytest.raises(ConfigError, match="unknown method 'swaw'; did you mean 'swav'"):
        known("swaw", ["swav"], "method")
