"""Presets: full configs for known experiments, each with its command, cost and score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfcluster.config import Config, ModelSettings, OptimSettings, SwavSettings

_IMAGENET_STEPS_AT_256 = 5005
_IMAGENET_STEPS_AT_4096 = 313


def swav_imagenet() -> Config[Any]:
    """SwAV on ImageNet as in the paper: ResNet-50, batch 4096, 100 epochs.

    selfcluster train imagenet/ --preset swav-imagenet, by torchrun on 64 GPUs. The paper reports 72.1 % linear top-1 after 100
    epochs and 75.3 % after 800 (--epochs 800). Not measured here.
    """
    return Config(
        objective=SwavSettings(freeze_steps=_IMAGENET_STEPS_AT_4096),
        optim=OptimSettings(batch=4096, lr=4.8, final_lr=0.0048, warmup_epochs=10, warmup_lr=0.3),
    )


def swav_imagenet_small_batch() -> Config[Any]:
    """SwAV on ImageNet as in the paper with a small batch: ResNet-50, batch 256, a queue of 3840 from epoch 15, 200 epochs.

    selfcluster train imagenet/ --preset swav-imagenet-small-batch, by torchrun on 4 GPUs. Not measured here.
    """
    return Config(
        objective=SwavSettings(freeze_steps=_IMAGENET_STEPS_AT_256, queue_length=3840),
        model=ModelSettings(),
        optim=OptimSettings(batch=256, epochs=200, lr=0.6, final_lr=0.0006),
    )


PRESETS: dict[str, Callable[[], Config[Any]]] = {
    "swav-imagenet": swav_imagenet,
    "swav-imagenet-small-batch": swav_imagenet_small_batch,
}
