"""The extras that messages, help texts and docs name can be installed."""

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


def test_every_extra_that_is_named_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    there = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
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
    assert {"bench", "heif", "onnx", "tensorboard", "umap", "wandb"} <= named <= set(there)
