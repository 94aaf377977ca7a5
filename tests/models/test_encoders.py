from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm
import torch

from selfcluster.errors import ConfigError
from selfcluster.models.encoders import compile_encoder, create_encoder, feature_width

SMALL = {
    "resnet18_small": (512, 1, 11.2),
    "resnet18_small_half": (256, 1, 2.8),
    "resnet18_small_quarter": (128, 1, 0.7),
    "resnet10_small_quarter": (128, 1, 0.3),
    "resnet10_small_quarter_s2": (128, 2, 0.3),
    "resnet10_small_half_s2": (256, 2, 1.2),
}


@pytest.mark.parametrize(("name", "width", "stride", "millions"), [(name, *facts) for name, facts in SMALL.items()])
def test_small_models_are_registered_with_timm(name: str, width: int, stride: int, millions: float) -> None:
    encoder = timm.create_model(name)
    assert feature_width(encoder, 16) == encoder.num_features == width
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == millions
    assert encoder.conv1.kernel_size == (3, 3)
    x = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        stem = encoder.maxpool(encoder.act1(encoder.bn1(encoder.conv1(x))))
        maps = encoder.forward_features(x)
    assert stem.shape[-2:] == (32 // stride, 32 // stride)
    assert maps.shape[-2:] == (4 // stride, 4 // stride)


def test_small_models_report_the_reduction_of_each_stage() -> None:
    encoder = timm.create_model("resnet10_small_quarter_s2", features_only=True)
    maps = encoder(torch.zeros(1, 3, 32, 32))
    assert [32 // m.shape[-1] for m in maps] == encoder.feature_info.reduction() == [2, 2, 4, 8, 16]
    assert [m.shape[1] for m in maps] == encoder.feature_info.channels()


def test_small_models_accept_the_settings_of_timm() -> None:
    assert timm.create_model("resnet10_small_quarter", num_classes=7)(torch.zeros(1, 3, 16, 16)).shape == (1, 7)
    assert timm.create_model("resnet10_small_quarter", in_chans=1)(torch.zeros(1, 1, 16, 16)).shape == (1, 128)


def test_encoder_returns_one_vector_per_image_and_stays_in_train_mode() -> None:
    encoder = create_encoder("resnet10_small_quarter", (32, 16))
    assert encoder.training
    assert encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 128)
    assert feature_width(encoder, 16) == 128
    assert encoder.training


def test_creating_an_encoder_leaves_its_statistics_untouched() -> None:
    encoder = create_encoder("resnet10_small_quarter", (32, 16))
    feature_width(encoder, 32)
    assert int(encoder.bn1.num_batches_tracked) == 0
    assert torch.equal(encoder.bn1.running_mean, torch.zeros(16))


def test_vision_transformer_takes_crops_of_several_sizes() -> None:
    encoder = create_encoder("vit_tiny_patch16_224", (64, 32))
    for size in (64, 32):
        assert encoder(torch.zeros(1, 3, size, size)).shape == (1, 192)


def test_sizes_that_an_encoder_does_not_accept_are_named() -> None:
    with pytest.raises(ConfigError, match="'vit_tiny_patch16_224' does not accept crops of 40 px, 24 px") as error:
        create_encoder("vit_tiny_patch16_224", (64, 40, 24))
    assert "\n" not in str(error.value)
    assert "crop_pixels" in str(error.value)


def test_an_encoder_of_one_size_rejects_others() -> None:
    with pytest.raises(ConfigError, match=r"mixer_s32_224.* does not accept crops of 64 px"):
        create_encoder("mixer_s32_224", (224, 64))


def test_unknown_encoder_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown encoder 'resnet18_smal'; did you mean 'resnet18_small'"):
        create_encoder("resnet18_smal", (32,))


def test_an_encoder_without_weights_is_named() -> None:
    with pytest.raises(ConfigError, match=r"timm has no pretrained weights for 'resnet10_small_quarter'.*or --init random"):
        create_encoder("resnet10_small_quarter", (32,), pretrained=True)


def test_weights_that_cannot_be_downloaded_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What HF_HUB_OFFLINE=1 and an empty HF_HOME set when huggingface_hub is imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="cannot download the pretrained weights of 'resnet18': there is no connection") as error:
        create_encoder("resnet18", (32,), pretrained=True)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert "--init random" in str(error.value)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_encoder_has_the_same_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    pixels = torch.randn(2, 3, 8, 8)
    before = encoder(pixels)
    names = list(encoder.state_dict())
    compile_encoder(encoder)
    after = encoder(pixels)
    torch.testing.assert_close(after, before)
    after.sum().backward()
    assert list(encoder.state_dict()) == names  # a checkpoint does not depend on compilation
    assert encoder._compiled_call_impl is not None


def test_compiling_without_a_compiler_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        compile_encoder(torch.nn.Identity())
