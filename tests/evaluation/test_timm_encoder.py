from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import selfcluster as sc
from selfcluster.data.crops import normalize
from selfcluster.evaluation.timm_encoder import TimmEncoder, timm_encoder
from selfcluster.models.pretrained import Preparation


def test_a_network_of_timm_gets_images_normalized_in_its_own_way() -> None:
    encoder = timm.create_model("vit_tiny_patch16_224.augreg_in21k", pretrained=False, num_classes=0, img_size=16).eval()
    assert encoder.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        found = TimmEncoder(encoder, Preparation((0.5,) * 3, (0.5,) * 3, "bicubic", 16)).encode(normalize(images))
        assert found.numpy() == pytest.approx(encoder((images.float() / 255 - 0.5) / 0.5).numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5o", "unknown encoder 'resnet5o'; did you mean 'resnet50"),
        (
            "resnet10_small_quarter_s2",
            "no pretrained weights for 'resnet10_small_quarter_s2'; use --beside tf_efficientnet_lite0.* or --beside-untrained",
        ),
        ("resnet50.nonsense", "Invalid pretrained tag"),
    ],
)
def test_unknown_names_and_missing_weights_are_refused(name: str, message: str) -> None:
    with pytest.raises(sc.ConfigError, match=message):
        timm_encoder(name, untrained=False, seed=0)


def test_weights_that_cannot_be_downloaded_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(sc.ConfigError, match="--beside-untrained") as refused:
        timm_encoder("resnet18.a1_in1k", untrained=False, seed=0)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""
