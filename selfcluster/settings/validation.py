"""Checks of settings, alone and together."""

from __future__ import annotations

import json
import math
from typing import Any

from selfcluster.errors import ConfigError
from selfcluster.settings.config import METHOD_SETTINGS, Config, DeepClusterSettings, SwavSettings, flatten

_MINIMUM = {
    "iterations": 1,
    "freeze_steps": 0,
    "queue_length": 0,
    "queue_from_epoch": 0,
    "kmeans_iterations": 1,
    "pca_width": 1,
    "reassign_epochs": 1,
    "first_label_epochs": 0,
    "top_lr": 0,
}

_LARGEST = 2**53
"""Largest whole number that a float represents exactly."""
_ABOVE_0 = ("epsilon", "temperature")


def check(config: Config[Any]) -> None:
    """Check every setting, and that the settings fit each other.

    Raises:
        ConfigError: the first setting that is wrong, with its value and a valid one.
    """
    check_values(config)
    crops = config.crops
    if not len(crops.n_crops) == len(crops.crop_pixels) == len(crops.area) or not crops.n_crops:
        raise ConfigError(
            f"n_crops {crops.n_crops}, crop_pixels {crops.crop_pixels} and area {crops.area} must have one entry for each size of crop"
        )
    if config.model.encoder == "patches" and config.method in METHOD_SETTINGS:
        raise ConfigError(
            "encoder 'patches' is fitted, not trained; use selfcluster explore --encoder patches, or train another encoder (with --first-labels patches)"
        )
    if config.model.freeze != "none":
        for name in ("recompute", "compile"):
            if getattr(config.run, name):
                raise ConfigError(f"--{name} is for training the whole encoder; leave it out, or leave out --freeze")
    if config.model.embedding_width == 0 and config.model.head_width:
        raise ConfigError(f"embedding_width 0 means no head, but head_width is {config.model.head_width}; set --head-width 0 as well")
    if isinstance(config.objective, SwavSettings) and config.objective.queue_length % config.optim.batch:
        length, batch = config.objective.queue_length, config.optim.batch
        raise ConfigError(f"queue_length {length} must be a multiple of the batch {batch}, such as {max(1, round(length / batch)) * batch}")


def check_values(config: Config[Any]) -> None:
    """Check every setting on its own.

    Raises:
        ConfigError: the first setting that is wrong, with its value and the valid range.
    """
    for name, value in flatten(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} {value} must be finite")
        if any(isinstance(part, int) and abs(part) > _LARGEST for part in (value if isinstance(value, tuple) else (value,))):
            raise ConfigError(f"{name} {value} must be at most {_LARGEST:,}")
    crops, optim, augment = config.crops, config.optim, config.augment
    if min(crops.n_crops, default=0) < 1:
        raise ConfigError(f"n_crops {crops.n_crops} must be at least 1 for each size")
    if min(crops.crop_pixels, default=0) < 4:
        raise ConfigError(f"crop_pixels {crops.crop_pixels} must be at least 4 for each size")
    if any(not 0 < low <= high <= 1 for low, high in crops.area):
        raise ConfigError(f"area {crops.area} must have 0 < smallest <= largest <= 1 for each size")
    for name in ("flip", "jitter", "grey", "blur"):
        _within(augment, name, 0, 1)
    for name in ("brightness", "contrast", "saturation", "rotate_degrees", "shift", "shear"):
        _at_least(augment, name, 0)
    _within(augment, "hue", 0, 0.5)
    _within(augment, "scale", 0, 0.9)
    low, high = augment.blur_sigma
    if not 0 < low <= high:
        raise ConfigError(f"blur_sigma {augment.blur_sigma} must be two numbers, 0 < smallest <= largest")
    for name in ("epochs", "batch", "accumulate"):
        _at_least(optim, name, 1)
    for name in ("max_steps", "max_minutes", "warmup_epochs", "weight_decay", "clip_norm", "lr", "final_lr"):
        _at_least(optim, name, 0)
    _within(optim, "momentum", 0, 1)
    _within(config.data, "max_broken_share", 0, 1)
    if not 0 <= config.data.test_share < 1:
        raise ConfigError(f"test_share {config.data.test_share} must be at least 0 and below 1, such as 0.2")
    _at_least(crops, "repeat_after", 0)
    _at_least(config.model, "head_width", 0)
    freeze = config.model.freeze
    if freeze not in ("none", "all", "but-last") and not (freeze.isascii() and freeze.isdigit()):
        raise ConfigError(f"freeze {freeze!r} must be none, all, but-last, or a number of stages, such as 3")
    if not optim.encoder_lr_ratio > 0:
        raise ConfigError(f"encoder_lr_ratio {optim.encoder_lr_ratio} must be above 0; to keep the encoder as it is, set --freeze all")
    if config.model.encoder_arguments and not _is_object(config.model.encoder_arguments):
        raise ConfigError(f"encoder_arguments {config.model.encoder_arguments!r} must be a JSON object, such as '{{\"img_size\": 96}}'")
    if min(config.model.pixel_deviation) <= 0:
        raise ConfigError(f"pixel_deviation {config.model.pixel_deviation} must be above 0")
    _at_least(config.run, "workers", -1)
    _at_least(config.run, "threads", 0)
    _at_least(config.run, "cache_gib", 0)
    for name in ("log_steps", "keep_checkpoints"):
        _at_least(config.run, name, 1)
    _at_least(config.run, "features_gib", 0)
    _at_least(config.run, "rank_timeout", 5)
    _within(config.run, "seed", 0, 2**63 - 1)
    _check_objective(config)


def _check_objective(config: Config[Any]) -> None:
    objective = config.objective
    if isinstance(objective, DeepClusterSettings):
        for name in ("head_width", "embedding_width"):
            if getattr(config.model, name):
                raise ConfigError(f"{name} {getattr(config.model, name)} must be 0: DeepCluster has no head and clusters the features")
    else:
        _at_least(config.model, "embedding_width", 0)
    if isinstance(objective, SwavSettings) and sum(config.crops.n_crops) < 2:
        raise ConfigError(f"n_crops {config.crops.n_crops} must be at least 2 in all: swapped prediction compares crops")
    if min(config.n_prototypes, default=0) < 2:
        raise ConfigError(f"n_prototypes {objective.n_prototypes} must be at least 2")
    for name, value in vars(objective).items():
        if name in _MINIMUM:
            _at_least(objective, name, _MINIMUM[name])
        elif name in _ABOVE_0 and not value > 0:
            raise ConfigError(f"{name} {value} must be above 0")
        elif name == "dropout" and not 0 <= value < 1:
            raise ConfigError(f"dropout {value} must be at least 0 and below 1")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _within(group: Any, name: str, low: float, high: float) -> None:
    if not low <= getattr(group, name) <= high:
        raise ConfigError(f"{name} {getattr(group, name)} must be between {low} and {high}")


def _at_least(group: Any, name: str, minimum: float) -> None:
    if not getattr(group, name) >= minimum:
        raise ConfigError(f"{name} {getattr(group, name)} must be at least {minimum}")
