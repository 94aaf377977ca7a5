"""The reference pages name everything there is: settings, metrics, columns, files and public names."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import selfcluster
from selfcluster.cli import _COMMANDS
from selfcluster.inference.cluster_table import cluster_table
from selfcluster.runs.folder import _RUN_FILES
from selfcluster.settings.choices import Facts
from selfcluster.settings.config import METHOD_SETTINGS, default_config, flatten
from selfcluster.settings.recipe import recipe
from tests import tiny
from tests.markdown import ROOT

REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def made() -> object:
    """Return the module that makes pages from the code."""
    sys.path.append(str(ROOT / "docs" / "tools"))
    import reference

    sys.path.remove(str(ROOT / "docs" / "tools"))
    return reference


def test_every_setting_is_described(made: object) -> None:
    names = {name for method in METHOD_SETTINGS for name in flatten(default_config(method))}
    assert made.ABOUT["values"].keys() == names
    text = made.settings()
    assert [name for name in names if f"### `--{name.replace('_', '-')}`" not in text] == []


def test_the_recipe_has_a_rule_for_each_setting_that_it_chooses(made: object) -> None:
    folders = [(8, True, 1.6), (32, False, 1.0), (300, False, 1.0)]
    facts = [Facts(5000, *of, accelerated=a, adapts=b) for of in folders for a in (False, True) for b in (False, True)]
    chosen = {name for method in METHOD_SETTINGS for of in facts for name in recipe(of, default_config(method), given=())}
    assert made.ABOUT["recipe"].keys() == chosen


def test_every_command_is_described(made: object) -> None:
    text = made.commands()
    assert [command for command in _COMMANDS if f"## {command}\n" not in text] == []


def test_every_metric_and_column_is_described() -> None:
    text = (REFERENCE / "metrics.md").read_text()
    code = "\n".join(file.read_text() for file in Path(selfcluster.__file__).parent.rglob("*.py"))
    metrics = set(re.findall(r'"((?:train|collapse|cluster|eval)/\w+)"', code)) - {"eval/knn_top1_k"}
    assert [name for name in metrics if f"`{name}`" not in text] == []
    zeros = np.zeros(4, dtype=np.int64)
    columns = cluster_table(tiny.data(4), np.arange(4), zeros, ("",), zeros, zeros / 1, zeros / 1, zeros > 0).column_names
    assert [name for name in columns if f"`{name}`" not in text] == []


def test_every_file_of_a_run_is_described() -> None:
    text = (REFERENCE / "run_folder.md").read_text()
    older = {"clusters.json"}
    assert [name for name in _RUN_FILES if name not in older and f"`{name}" not in text] == []


def test_every_public_name_is_described() -> None:
    text = (REFERENCE / "api.md").read_text()
    assert [name for name in selfcluster.__all__ if f":: selfcluster.{name}\n" not in text] == ["__version__"]
