"""Frozen stages: which parameters they have, and an encoder in two parts that computes what the whole one does."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import selfcluster.models  # noqa: F401  registers the small encoders
from selfcluster.errors import ConfigError
from selfcluster.models.frozen import freeze, split, stages_of


def _encoder(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **arguments).eval()


def _trained(encoder: nn.Module) -> list[str]:
    return [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("name", "n_stages", "first_of_last"),
    [
        ("resnet10_small_quarter_s2", 4, "layer4.0.conv1.weight"),
        ("tf_efficientnet_lite0", 7, "blocks.6.0.conv_pw.weight"),
        ("convnext_atto", 4, "stages.3.downsample.0.weight"),
        ("test_vit", 6, "blocks.5.norm1.weight"),
    ],
)
def test_stages_follow_the_stem_and_the_last_has_the_layers_behind_it(name: str, n_stages: int, first_of_last: str) -> None:
    encoder = _encoder(name)
    stages = stages_of(encoder)
    assert len(stages) == 1 + n_stages
    assert stages[-1][0] == first_of_last
    assert sorted(name for stage in stages for name in stage) == sorted(name for name, _ in encoder.named_parameters())


@pytest.mark.parametrize(("stages", "n_frozen"), [("none", 0), ("0", 1), ("2", 3), ("3", 4), ("but-last", 4), ("all", 5)])
def test_freeze_keeps_the_stem_and_the_stages_after_it(stages: str, n_frozen: int) -> None:
    encoder = _encoder("resnet10_small_quarter_s2")
    freeze(encoder, stages, "resnet10")
    assert _trained(encoder) == [name for stage in stages_of(encoder)[n_frozen:] for name in stage]


def test_freezing_all_stages_by_their_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="freeze 4 leaves nothing to train: encoder 'x' has 4 stages; set --freeze to fewer, or to all"):
        freeze(_encoder("resnet10_small_quarter_s2"), "4", "x")


def test_an_encoder_without_known_stages_is_frozen_as_a_whole_or_not_at_all() -> None:
    with pytest.raises(ConfigError, match="timm does not tell the stages of encoder 'x'; set --freeze to all or none"):
        freeze(_Branching(), "but-last", "x")
    encoder = _Branching()
    freeze(encoder, "all", "x")
    assert not _trained(encoder)


@pytest.mark.parametrize("stages", ["0", "2", "but-last", "all"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet10_small_quarter_s2", {}),
        ("tf_efficientnet_lite0", {}),
        ("convnext_atto", {}),
        ("test_vit", {"dynamic_img_size": True}),
    ],
)
def test_both_parts_after_each_other_are_the_encoder(name: str, arguments: dict[str, Any], stages: str) -> None:
    encoder = _encoder(name, **arguments)
    freeze(encoder, stages, name)
    parts = split(encoder)
    for shape in ((2, 3, 64, 64), (3, 3, 96, 96)):
        images = torch.randn(shape)
        with torch.no_grad():
            assert torch.equal(parts.trained(parts.frozen(images)), encoder(images))
    assert parts.is_cut or (name, stages) == ("convnext_atto", "0"), "its stem is a list of layers, which torch.fx does not name"


def test_gradients_through_the_second_part_are_those_of_the_encoder() -> None:
    encoder, images = _encoder("tf_efficientnet_lite0"), torch.randn(4, 3, 64, 64)
    freeze(encoder, "but-last", "lite0")
    parts = split(encoder)

    def gradients(output: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(output.square().sum(), [p for p in encoder.parameters() if p.requires_grad]))

    wanted = gradients(encoder(images))
    got = gradients(parts.trained(parts.frozen(images).detach()))
    assert len(wanted) == len(_trained(encoder)) > 0
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


class _Branching(nn.Module):
    """An encoder with control flow that depends on the values, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.last(x if x.sum() > 0 else -x)


def test_an_encoder_that_cannot_be_cut_is_trained_whole() -> None:
    encoder, images = _Branching(), torch.randn(2, 4)
    encoder.stem.requires_grad_(False)
    parts = split(encoder)
    assert not parts.is_cut
    assert torch.equal(parts.trained(parts.frozen(images)), encoder(images))
