"""Exploring by local weights, and by encoders with sizes of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import selfcluster as sc
from selfcluster.device import precision_of
from selfcluster.models.encoders import create_encoder, suitable_side
from tests import tiny

IMAGES = tiny.images(8, pixels=40)


def _check_same(run: sc.Run, features: torch.Tensor) -> None:
    """Compare the features of the images, which are computed in bf16 on some machines."""
    difference = np.linalg.norm(run.embed(IMAGES) - features.numpy()) / float(features.norm())
    assert difference < (0.02 if precision_of(run.config, torch.device("cpu")) == torch.bfloat16 else 1e-4)


def _explore(out: Path, **given: Any) -> sc.Run:
    return sc.explore(IMAGES, k=2, out=out, device="cpu", **given)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of timm's, and bare files of its tensors."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, global_pool="avg", depth=1, num_classes=3)
    timm.models.save_for_hf(network, folder / "timm", safe_serialization=True)
    tensors = network.state_dict()
    save_file(tensors, folder / "bare.safetensors")
    damaged = {name: x * torch.nan if name == "patch_embed.proj.weight" else x for name, x in tensors.items()}
    shutil.copytree(folder / "timm", folder / "damaged")
    save_file(damaged, folder / "damaged" / "model.safetensors")
    return folder


@pytest.mark.parametrize("layout", ["timm", "timm/model.safetensors"])
def test_a_folder_of_timms_names_network_weights_and_preparation(weights: Path, layout: str, tmp_path: Path) -> None:
    given = shutil.copytree(weights / "timm", tmp_path / "timm")
    run = _explore(tmp_path / "run", encoder=str(tmp_path / layout))
    model = run.config.model
    assert (model.encoder, model.pixel_mean, model.interpolation, run.config.crops.crop_pixels) == (
        "vit_tiny_patch16_224",
        (0.5, 0.5, 0.5),
        "bicubic",
        (128,),
    )
    wanted = timm.create_model(f"local-dir:{given}", pretrained=True, num_classes=0, dynamic_img_size=True).eval()
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    square = torch.nn.functional.interpolate(images, (128, 128), mode="bicubic", antialias=True)
    with torch.no_grad():
        features = wanted(square / 127.5 - 1)
    shutil.rmtree(given)
    again = sc.load(run.path)
    _check_same(again, features)
    again.export("timm", out=tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["model_args"]["depth"] == 1
    for source in (run.path, tmp_path / "exported"):
        _check_same(_explore(tmp_path / f"again-{source.name}", encoder=str(source)), features)


def test_training_starts_from_a_folder_of_timms(weights: Path, tmp_path: Path) -> None:
    settings = {name: value for name, value in tiny.SETTINGS.items() if name != "encoder"} | dict(
        method="swav", crop_pixels=(32, 16), max_steps=1
    )
    run = sc.train(IMAGES, out=tmp_path / "run", init=str(weights / "timm"), **settings)
    assert (run.config.model.encoder, json.loads(run.config.model.encoder_arguments)["depth"]) == ("vit_tiny_patch16_224", 1)
    assert run.config.model.pixel_mean == (0.5, 0.5, 0.5)


def test_a_bare_file_is_prepared_as_its_architecture(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "weights.safetensors")
    run = _explore(tmp_path / "run", encoder="resnet10t", init=str(tmp_path / "weights.safetensors"))
    assert (run.config.model.encoder, run.config.model.init) == ("resnet10t", str(tmp_path / "weights.safetensors"))
    assert (run.config.crops.crop_pixels, run.config.model.interpolation) == ((128,), "bicubic")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder": "{}/bare.safetensors"}, "does not name its architecture"),
        ({"encoder": "{}"}, "has neither timm's config.json nor a run's config.toml"),
        ({"encoder": "resnet10t", "init": "{}/bare.safetensors"}, "use the --encoder that it belongs to"),
        ({"encoder": "{}/damaged"}, "features that are not finite"),
        ({"encoder": "{}/timm", "pixels": 40}, r"does not take images of 40 px \(.*\); use --pixels 32, or leave it out"),
        ({"encoder": "{}/timm", "init": "{}/bare.safetensors"}, "names its weights already"),
        ({"init": "random"}, "random weights are of no use"),
        ({"init": "no/such/file"}, "init 'no/such/file' is not"),
    ],
)
def test_weights_that_cannot_be_used_are_one_line_and_nothing_is_written(
    given: dict[str, Any], message: str, weights: Path, tmp_path: Path
) -> None:
    given = {name: value.format(weights) if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(sc.SelfclusterError, match=message) as refused:
        _explore(tmp_path / "run", **given)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_their_description_are_refused(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights / "timm", tmp_path / "timm")
    described = json.loads((tmp_path / "timm" / "config.json").read_text())
    (tmp_path / "timm" / "config.json").write_text(json.dumps(described | {"architecture": "resnet10t", "model_args": {}}))
    with pytest.raises(sc.CheckpointError, match=r"cannot load the weights in .* into the network of its config.json"):
        _explore(tmp_path / "run", encoder=str(tmp_path / "timm"))


def test_a_folder_without_a_preparation_gets_imagenets_and_the_log_says_so(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(weights / "timm", tmp_path / "timm")
    described = json.loads((tmp_path / "timm" / "config.json").read_text())
    del described["pretrained_cfg"]["mean"], described["pretrained_cfg"]["std"]
    (tmp_path / "timm" / "config.json").write_text(json.dumps(described))
    with caplog.at_level("INFO", logger="selfcluster"):
        run = _explore(tmp_path / "run", encoder=str(tmp_path / "timm"))
    assert run.config.model.pixel_mean == (0.485, 0.456, 0.406)
    assert caplog.text.count("ImageNet's mean and deviation are used") == 1


@pytest.mark.parametrize(
    ("encoder", "arguments", "wanted", "side"),
    [
        ("resnet10t", "", 100, 100),
        ("vit_tiny_patch16_224", '{"depth": 1}', 100, 96),
        ("vit_small_patch14_dinov2", '{"depth": 1}', 128, 126),
        ("mixer_s32_224", "", 128, 224),
    ],
)
def test_the_side_is_one_that_the_encoder_takes(encoder: str, arguments: str, wanted: int, side: int) -> None:
    network = create_encoder(encoder, arguments=arguments)
    assert suitable_side(network, wanted, of_weights=224) == side
    assert network(torch.zeros(1, 3, side, side)).ndim == 2
