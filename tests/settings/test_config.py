from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from selfcluster.errors import ConfigError
from selfcluster.settings.config import AUGMENTATIONS, CHANGEABLE_ON_RESUME, default_config, flatten, groups, replace


def test_setting_names_are_unique_over_all_groups() -> None:
    names = [f.name for group in groups(default_config("swav")).values() for f in dataclasses.fields(group)]
    assert len(names) == len(set(names))
    assert set(names) >= CHANGEABLE_ON_RESUME


def test_every_setting_has_a_help_text() -> None:
    import ast
    import inspect

    from selfcluster.settings import config

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
    config = replace(config, {"lr": np.float64(0.3), "batch": np.int64(7), "n_crops": np.arange(1, 3).tolist()})
    assert (type(config.optim.lr), config.optim.batch, type(config.optim.batch)) == (float, 7, int)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_cropz": (2,)}, "unknown setting 'n_cropz'; did you mean 'n_crops'?"),
        ({"optimizer": "adam"}, "did you mean 'adamw'?"),
        ({"top_lr": 0.1}, "setting 'top_lr' belongs to deepcluster, not to swav"),
        ({"lr": "x"}, "lr 'x' must be a number"),
        ({"epochs": 1.5}, "epochs 1.5 must be a whole number"),
        ({"tensorboard": 1}, "tensorboard 1 must be true or false"),
        ({"n_crops": 2.5}, "n_crops 2.5 must be"),
        ({"blur_sigma": (1.0, 2.0, 3.0)}, "blur_sigma (1.0, 2.0, 3.0) must be 2 numbers"),
    ],
)
def test_replace_refuses(values: dict, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        replace(default_config("swav"), values)
    assert message in str(error.value)
