"""The metadata of the package agrees with the rest of the repository."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from selfcluster.doctor import _EXTRAS
from selfcluster.errors import ConfigError
from selfcluster.runs.metrics import check_extras
from selfcluster.settings.config import RunSettings

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_extra_that_is_named_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [
        file for folder in ("docs", "selfcluster", "benchmarks") for file in (ROOT / folder).rglob("*") if file.suffix in (".md", ".py")
    ]
    text = "\n".join(file.read_text() for file in [ROOT / "README.md", *pages])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for settings in (RunSettings(tensorboard=True), RunSettings(wandb="project")):
        with pytest.raises(ConfigError) as raised:
            check_extras(settings)
        text += f"\n{raised.value}"
    named = {*re.findall(r"selfcluster\[([a-z]+)\]", text), *re.findall(r"\bextra `?([a-z]+)[`)]", text), *_EXTRAS}
    assert {"bench", "heif", "onnx", "tensorboard", "umap", "wandb"} <= named <= set(PROJECT["optional-dependencies"])


def test_the_citation_is_that_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {PROJECT['version']}\n" in citation
    assert f"\nrepository-code: {PROJECT['urls']['Source']}\n" in citation


def test_the_tested_pythons_are_those_that_are_named() -> None:
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", line)]
    (tested,) = re.findall(r"python: \[(.*)\]", (ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert re.findall(r"[\d.]+", tested) == named
    assert PROJECT["requires-python"] == f">={named[0]}"
