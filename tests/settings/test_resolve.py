from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from selfcluster.errors import ConfigError
from selfcluster.settings.choices import Facts
from selfcluster.settings.config import default_config, flatten, replace
from selfcluster.settings.presets import PRESETS, method_of
from selfcluster.settings.resolve import Profile, adapts, profile_of, resolve, resumed_config
from selfcluster.settings.toml import SettingsFile, read_toml, to_toml

FACTS = Facts(n=5000, short_side=128, is_grey=False, mirror_distance=1.0, accelerated=False)


def test_order_of_settings() -> None:
    plain = resolve(Profile("swav"), FACTS, file={}, flags={})
    assert plain.origins["momentum"] == "default"
    assert plain.origins["encoder"].startswith("recipe: ")
    file = {"encoder": "resnet34", "lr": 0.5}
    both = resolve(Profile("swav"), FACTS, file=file, flags={"lr": 0.25})
    assert (both.config.model.encoder, both.origins["encoder"]) == ("resnet34", "config file")
    assert (both.config.optim.lr, both.origins["lr"]) == (0.25, "flag")
    preset = resolve(Profile("swav", "swav-imagenet"), FACTS, file=file, flags={})
    assert preset.origins["n_prototypes"] == "preset swav-imagenet"
    assert (preset.config.objective.n_prototypes, preset.config.optim.batch) == (3000, 4096)
    assert (preset.config.optim.lr, preset.origins["lr"]) == (0.5, "config file")


def test_config_toml_gives_the_same_config_and_says_where_each_value_came_from(tmp_path: Path) -> None:
    resolved = resolve(Profile("swav"), FACTS, file={}, flags={"wandb": 'a "quoted" name', "n_crops": (2, 3)})
    text = to_toml(resolved.config, resolved.origins, images="/photos/été 🐈")
    (tmp_path / "c.toml").write_text(text)
    read = read_toml(tmp_path / "c.toml")
    assert (read.method, read.images, read.preset) == ("swav", "/photos/été 🐈", None)
    assert replace(default_config("swav"), read.settings) == resolved.config
    assert "n_crops = [2, 3]  # flag" in text
    assert "momentum = 0.9  # default" in text
    assert "# recipe: " in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[crops]\nn_cropz = 2", "did you mean 'n_crops'?"),
        ("[cropz]\nn_crops = 2", "did you mean 'crops'?"),
        ("metod = 'swav'", "did you mean 'method'?"),
        ("a = [", "is not TOML"),
        ("method = 'dino'", "unknown method 'dino'"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        read_toml(tmp_path / "c.toml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_of_earlier_versions_are_read(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[crops]\naugmentation = "grey"\n[swav]\nqueue_growth_epochs = 0.0\n[health]\ncollapse_steps = 200\n')
    read = read_toml(file)
    assert (read.augmentation, read.settings) == ("grey", {})
    assert read.warnings == (f"{file}: queue_growth_epochs is no longer a setting; its value 0.0 is ignored, and 1.0 is used",)
    file.write_text("[optim]\nlr = 1.6\nwarmup_epochs = 2.0\nwarmup_lr = 0.3\n")
    assert read_toml(file).warnings == (f"{file}: warmup_lr is no longer a setting; its value 0.3 is ignored, and 0.1 is used",)
    file.write_text("[optim]\nlr = 1.6\nwarmup_epochs = 0.0\nwarmup_lr = 0.3\n")
    assert read_toml(file).warnings == ()


def test_augmentation_sets_the_strengths_over_recipe_and_preset() -> None:
    for preset in (None, "swav-imagenet"):
        resolved = resolve(Profile("swav", preset, "glyph"), FACTS, file={}, flags={"hue": 0.1})
        assert (resolved.config.augment.flip, resolved.config.augment.hue) == (0.0, 0.1)
        assert resolved.origins["flip"] == "augmentation glyph"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_toml(tmp_path / "none.toml")


def test_unknown_preset_and_a_preset_of_another_method() -> None:
    with pytest.raises(ConfigError, match="did you mean 'swav-imagenet'"):
        profile_of(None, "swav-imagent", None, SettingsFile({}))
    with pytest.raises(ConfigError, match="preset 'swav-imagenet' is for the method 'swav', not 'sela-v2'"):
        profile_of("sela-v2", "swav-imagenet", None, SettingsFile({}))


def test_flags_come_before_the_file_and_the_preset_before_the_file_method() -> None:
    file = SettingsFile({}, method="sela-v2", augmentation="grey")
    assert profile_of(None, None, None, file) == Profile("sela-v2", None, "grey")
    assert profile_of("deepcluster", None, "glyph", file) == Profile("deepcluster", None, "glyph")
    assert profile_of(None, "swav-imagenet", None, file) == Profile("swav", "swav-imagenet", "grey")
    assert profile_of(None, None, None, SettingsFile({})) == Profile("swav")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_can_be_used_and_is_documented(name: str) -> None:
    assert resolve(Profile(method_of(name), name), FACTS, file={}, flags={}).config == PRESETS[name]()
    assert f"--preset {name}" in (PRESETS[name].__doc__ or "")


def test_presets_hold_the_papers_table() -> None:
    large, small = flatten(PRESETS["swav-imagenet"]()), flatten(PRESETS["swav-imagenet-small-batch"]())
    assert (large["batch"], large["lr"], large["final_lr"], large["warmup_epochs"], large["freeze_steps"]) == (4096, 4.8, 0.0048, 10, 313)
    assert (small["batch"], small["lr"], small["final_lr"], small["freeze_steps"]) == (256, 0.6, 0.0006, 5005)
    assert (small["queue_length"], small["queue_from_epoch"]) == (3840, 15)


def test_resume_may_change_the_machine_and_nothing_else() -> None:
    stored = default_config("swav")
    assert resumed_config(stored, {"workers": 3, "device": "cpu"}).run.workers == 3
    assert resumed_config(stored, {"lr": stored.optim.lr}) == stored
    with pytest.raises(ConfigError, match=r"cannot resume with lr 0.1: this run has 0.6; leave --lr out"):
        resumed_config(stored, {"lr": 0.1})


def test_weights_of_other_images_are_adapted_and_those_of_a_trained_run_are_not(tmp_path: Path) -> None:
    for method in ("explore", "swav"):
        (tmp_path / method).mkdir()
        (tmp_path / method / "config.toml").write_text(f'method = "{method}"\n')
    weights = tmp_path / "weights.pth"
    weights.touch()
    adapted = {init: adapts(init) for init in ("random", "pretrained", "resnet18.a1_in1k", str(tmp_path / "explore"))}
    assert adapted == {"random": False, "pretrained": True, "resnet18.a1_in1k": True, str(tmp_path / "explore"): True}
    assert not adapts(str(tmp_path / "swav"))
    assert not adapts(str(weights))
    none = SettingsFile({})
    assert profile_of(None, None, None, none, "pretrained").method == "deepcluster-v2"
    assert profile_of("swav", None, None, none, "pretrained").method == "swav"
    assert profile_of(None, None, None, SettingsFile({"lr": 1.0}), "pretrained").method == "swav"
    assert profile_of(None, None, None, none).method == "swav"
    flags = {"init": "pretrained"}
    assert resolve(Profile("deepcluster-v2"), FACTS, file={}, flags=flags).config.model.freeze == "but-last"
    assert resolve(Profile("deepcluster-v2"), FACTS, file={}, flags={}).config.model.freeze == "none"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"freeze": "some"}, "freeze 'some' must be none, all, but-last, or a number of stages, such as 3"),
        ({"freeze": "2", "compile": True}, "--compile is for training the whole encoder; leave it out, or leave out --freeze"),
        ({"encoder_lr_ratio": 0.0}, "encoder_lr_ratio 0.0 must be above 0; to keep the encoder as it is, set --freeze all"),
        ({"embedding_width": 0, "head_width": 8}, "embedding_width 0 means no head, but head_width is 8; set --head-width 0 as well"),
        ({"repeat_after": -1}, "repeat_after -1 must be at least 0"),
    ],
)
def test_settings_for_adapting_that_do_not_fit_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        resolve(Profile("swav"), FACTS, file={}, flags=flags)
