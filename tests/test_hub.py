"""The check of the connection to the hub ends soon, and can be begun before its result is needed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import selfcluster as sc
from selfcluster import hub
from selfcluster.errors import ConfigError
from tests import tiny


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A network that neither connects nor fails."""
    never = threading.Event()

    def hang(*_: object, **__: object) -> None:
        never.wait()
        raise OSError

    monkeypatch.setattr(hub, "_begun", None)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", hang)
    yield
    never.set()


def test_a_hub_that_does_not_answer_is_given_up_soon(hanging: None) -> None:
    started = time.monotonic()
    assert hub.is_offline()
    assert 1.9 < time.monotonic() - started < 4


def test_a_check_that_was_begun_before_is_not_waited_for_again(hanging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.begin_check()
    assert hub._begun is not None
    hub._begun.began -= 10
    monkeypatch.setattr(hub, "_SECONDS", 5.0)
    assert hub.is_offline()
    assert hub._begun is None, "the next question is asked anew"


def test_a_hub_that_answers_is_not_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        def close(self) -> None:
            pass

    monkeypatch.setattr(hub, "_begun", None)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: Connection())
    assert not hub.is_offline()


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one encoder in timm's layout, and no network."""
    encoder = timm.create_model("resnet10t", num_classes=0)
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "models--someone--small" / "snapshots" / commit
    folder.mkdir(parents=True)
    (tmp_path / "models--someone--small" / "refs").mkdir()
    (tmp_path / "models--someone--small" / "refs" / "main").write_text(commit)
    save_file(encoder.state_dict(), folder / "model.safetensors")
    description = {
        "architecture": "resnet10t",
        "num_features": 512,
        "num_classes": 0,
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 32, 32]},
    }
    (folder / "config.json").write_text(json.dumps(description))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return folder


@pytest.mark.parametrize("how", [{"encoder": "hf-hub:someone/small"}, {"init": "hf-hub:someone/small"}], ids=["encoder", "init"])
def test_weights_of_the_hub_bring_their_encoder_and_its_preparation(cached: Path, tmp_path: Path, how: dict[str, str]) -> None:
    explored = sc.explore(tiny.images(), out=tmp_path / "explored", pixels=32, device="cpu", k=2, **how)
    settings = {name: value for name, value in tiny.SETTINGS.items() if name not in ("encoder", "crop_pixels")}
    trained = sc.train(
        tiny.images(), out=tmp_path / "trained", method="swav", max_steps=1, crop_pixels=(32, 32), **{**settings, "epochs": 1}, **how
    )
    for run in (explored, trained):
        assert run.config.model.encoder == "resnet10t"
        assert run.config.model.pixel_mean == (0.1, 0.2, 0.3)
    torch.testing.assert_close(explored.model.encoder.conv1[0].weight, load_file(cached / "model.safetensors")["conv1.0.weight"])


def test_what_the_hub_does_not_have_is_one_clear_line(cached: Path) -> None:
    with pytest.raises(
        ConfigError, match="cannot download 'hf-hub:someone/other': there is no connection to the hub, and it is not cached; check"
    ):
        hub.downloaded("hf-hub:someone/other")
    with pytest.raises(ConfigError, match="names its weights already"):
        sc.train(tiny.images(), encoder="hf-hub:someone/small", init="random")
    (cached / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"'hf-hub:someone/small' has no model\.safetensors"):
        hub.downloaded("hf-hub:someone/small")
    assert hub.downloaded("resnet18.a1_in1k") == "resnet18.a1_in1k"
