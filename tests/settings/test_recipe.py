from __future__ import annotations

import numpy as np
import pytest
import torch

from selfcluster.settings.choices import Facts
from selfcluster.settings.config import METHOD_SETTINGS, default_config, flatten, replace
from selfcluster.settings.recipe import recipe
from selfcluster.settings.validation import check

CPU = torch.device("cpu")


def _facts(**changes: object) -> Facts:
    return Facts(**{**dict(n=5000, short_side=128, is_grey=False, mirror_distance=1.0, accelerated=False), **changes})


def _chosen(facts: Facts, method: str = "swav", **given: object) -> dict[str, object]:
    config = replace(default_config(method), given)
    return {name: choice.value for name, choice in recipe(facts, config, given).items()}


def _why(facts: Facts) -> str:
    return recipe(facts, default_config("swav"), ())["flip"].reason


@pytest.mark.parametrize("method", METHOD_SETTINGS)
@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("short_side", [8, 28, 32, 64, 96, 128, 500])
@pytest.mark.parametrize("n", [2, 20, 300, 1797, 50_000, 1_280_000, 100_000_000])
def test_every_recipe_is_a_config_that_can_be(n: int, short_side: int, accelerated: bool, method: str) -> None:
    for grey, mirror in ((False, 1.0), (True, 1.0), (True, 2.0)):
        facts = _facts(n=n, short_side=short_side, is_grey=grey, mirror_distance=mirror, accelerated=accelerated)
        values = _chosen(facts, method)
        check(replace(default_config(method), values))
        assert values["batch"] <= n
        assert method == "swav" or np.max(values["n_prototypes"]) <= n
        assert max(values["crop_pixels"]) <= max(short_side, 8)


def test_what_the_recipe_decides_follows_the_images() -> None:
    assert _why(_facts()) == "augmentation photo: the images have color"
    assert _why(_facts(is_grey=True)).startswith("augmentation grey")
    facts = _facts(is_grey=True, short_side=28, mirror_distance=1.6)
    assert _why(facts) == "augmentation glyph: small grey images, 1.6 times as far from their mirror images as from each other"
    glyphs = _chosen(facts)
    assert glyphs["flip"] == glyphs["hue"] == glyphs["grey"] == 0
    assert _chosen(_facts(n=1797))["n_prototypes"] == 30
    assert _chosen(_facts(n=1_281_167, accelerated=True))["n_prototypes"] == 3000
    assert _chosen(_facts(n=1_281_167))["n_prototypes"] == 96
    assert _chosen(_facts(n=1_281_167, short_side=400, accelerated=True))["encoder"] == "resnet50"
    assert _chosen(_facts(n=1_281_167, short_side=400, accelerated=True))["crop_pixels"] == (224, 96)
    assert _chosen(_facts(short_side=32, accelerated=True))["encoder"] == "resnet18_small"


def test_what_the_user_chose_is_taken_into_account() -> None:
    assert _chosen(_facts(), batch=50)["freeze_steps"] == 100
    assert _chosen(_facts(), max_steps=200)["freeze_steps"] == 20
    assert _chosen(_facts(), n_prototypes=3000)["epsilon"] == 0.05
    assert recipe(_facts(), default_config("swav"), (), "glyph")["flip"].value == 0
    assert _chosen(_facts(), lr=0.5)["final_lr"] == 0.0005
    assert _chosen(_facts(), optimizer="adamw")["lr"] < 0.01
    assert _chosen(_facts(accelerated=True))["optimizer"] == "lars"
    assert _chosen(_facts(accelerated=True), encoder="vit_small_patch16_224")["optimizer"] == "adamw"


def test_the_digits_get_the_settings_that_were_measured() -> None:
    values = _chosen(_facts(n=1797, short_side=32, is_grey=True, mirror_distance=1.6))
    wanted = dict(encoder="resnet10_small_quarter_s2", n_prototypes=30, batch=64, epochs=30, optimizer="lars", lr=4.0, epsilon=0.02)
    assert {name: values[name] for name in wanted} == wanted
    assert (values["crop_pixels"], values["area"]) == ((24, 16), ((0.6, 1.0), (0.35, 0.6)))


def test_each_method_gets_what_it_wants() -> None:
    deepcluster = _chosen(_facts(n=1797), "deepcluster")
    assert (deepcluster["n_crops"], len(deepcluster["crop_pixels"]), len(deepcluster["area"])) == ((1,), 1, 1)
    assert (deepcluster["n_prototypes"], deepcluster["top_lr"], deepcluster["head_width"]) == (30, 0.5, 0)
    assert [_chosen(_facts(n=n), "deepcluster")["pca_width"] for n in (100, 1797, 50_000)] == [16, 64, 256]
    assert _chosen(_facts(n=1_281_167, accelerated=True), "deepcluster")["top_lr"] == pytest.approx(0.05, rel=0.01)
    assert _chosen(_facts(n=1797, accelerated=True), "deepcluster-v2")["n_prototypes"] == (30, 30, 30)
    assert _chosen(_facts(n=1_281_167, accelerated=True), "deepcluster-v2")["n_prototypes"] == (3000, 3000, 3000)
    assert _chosen(_facts(n=1797), "sela-v2")["epsilon"] == 0.02
    assert _chosen(_facts(n=1797), "sela-v2", n_prototypes=(3000, 1000))["epsilon"] == 0.05


def test_first_labels_are_those_of_patches_without_a_gpu() -> None:
    values = _chosen(_facts(n=45_000, short_side=32), "deepcluster-v2")
    wanted = dict(
        first_labels="patches",
        first_label_epochs=0,
        n_prototypes=(58, 290, 580),
        n_crops=(1,),
        crop_pixels=(32,),
        area=((0.4, 1.0),),
        jitter=0,
        head_width=0,
        encoder="resnet18_small_quarter",
    )
    assert {name: values[name] for name in wanted} == wanted
    assert _chosen(_facts(), "sela-v2")["first_labels"] == "patches"
    assert _chosen(_facts(), "sela-v2", first_labels="network")["n_crops"] == (2, 4)
    assert _chosen(_facts(accelerated=True), "sela-v2")["first_labels"] == "network"
    assert _chosen(_facts(accelerated=True), "sela-v2", first_labels="patches")["n_crops"] == (1,)
    assert _chosen(_facts(is_grey=True, short_side=28, mirror_distance=1.6), "sela-v2")["first_labels"] == "network", "glyphs"


@pytest.mark.parametrize("method", METHOD_SETTINGS)
def test_every_choice_has_a_reason_and_is_a_setting(method: str) -> None:
    advice = recipe(_facts(), default_config(method), {})
    assert set(advice) <= set(flatten(default_config(method)))
    assert all(choice.reason for choice in advice.values())


def test_adapting_pretrained_weights_trains_the_last_stage_on_labels_that_stay() -> None:
    values = _chosen(_facts(adapts=True), "deepcluster-v2")
    wanted = dict(
        encoder="tf_efficientnet_lite0",
        freeze="but-last",
        n_crops=(1,),
        crop_pixels=(128,),
        repeat_after=4,
        n_prototypes=(100, 200, 416),
        first_labels="neighbors",
        first_label_epochs=0,
        embedding_width=0,
    )
    assert {name: values[name] for name in wanted} == wanted
    assert (values["lr"], values["final_lr"]) == (0.001, 1e-6)
    assert _chosen(_facts(adapts=True, accelerated=True), "deepcluster-v2")["crop_pixels"] == (224,)
    assert [_chosen(_facts(adapts=True, n=n), "deepcluster-v2")["repeat_after"] for n in (100, 20_000, 10**6)] == [4, 2, 1]
    assert max(_chosen(_facts(adapts=True, n=10**6), "sela-v2")["n_prototypes"]) == 3000
    assert _chosen(_facts(adapts=True, is_grey=True), "sela-v2")["saturation"] == 0
    assert _chosen(_facts(adapts=True, n_ranks=3), "sela-v2")["batch"] == 126, "each rank has as many images"


def test_swav_trains_the_head_alone_on_pretrained_weights() -> None:
    values = _chosen(_facts(adapts=True))
    assert (values["freeze"], values["n_crops"], values["head_width"]) == ("all", (2,), 512)
