"""The recipe: settings chosen from the number, size and channels of the images, each with its reason.

The papers' settings are for 1.3 million photos on 64 GPUs; a folder of 5,000 thumbnails needs others. Every value can be overridden.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container
from typing import Any

from selfcluster.settings.adapting import adapting
from selfcluster.settings.choices import Choice, Facts
from selfcluster.settings.config import AUGMENTATIONS, AugmentSettings, Config, flatten
from selfcluster.settings.first_labels import from_patches
from selfcluster.settings.presets import IMAGENET_STEPS_AT_256

GLYPH_MIRROR_DISTANCE = 1.4
"""Mirror distance above which small grey images are taken for glyphs."""

_IMAGES_PER_COMPONENT = 28
"""Images per PCA component, so that the components of least variance, which whitening enlarges most, are well estimated."""

_TRANSFORMERS = ("vit", "deit", "beit", "eva", "swin", "cait", "xcit")


def recipe(facts: Facts, config: Config[Any], given: Container[str], augmentation: str | None = None) -> dict[str, Choice]:
    """Choose settings for these images.

    Args:
        facts: about the images.
        config: contains the settings that the user has chosen.
        given: names of these settings; the other choices take them into account.
        augmentation: the user's choice of augmentation, or None.
    Returns:
        a choice for every setting that depends on the images, whether the user has chosen it or not.
    """

    def settled(name: str) -> Any:
        """Return the user's value, or else the recipe's."""
        return flatten(config)[name] if name in given else advice[name].value

    kind, why = (augmentation, "") if augmentation is not None else _augmentation(facts)
    advice = _crops(facts, kind) | _augment(facts, kind, why) | _network(facts, kind) | {"batch": _batch(facts)} | _epochs(facts, kind)
    advice["optimizer"] = _optimizer(facts, kind, settled("encoder"))
    steps_per_epoch = max(1, facts.n // settled("batch"))
    total_steps = min(settled("epochs") * steps_per_epoch, config.optim.max_steps or 10**12)
    advice |= _schedule(settled("optimizer"), settled("batch"), total_steps)
    if config.method == "swav":
        k = _n_prototypes(facts, at_most=settled("batch") * (12 if facts.accelerated else 1.5))
        advice |= {"n_prototypes": k, "freeze_steps": _freeze(steps_per_epoch, total_steps)}
        advice["epsilon"] = _epsilon(settled("n_prototypes"))
    elif config.method == "deepcluster":
        advice |= _deepcluster(facts, {name: advice[name] for name in ("n_crops", "crop_pixels", "area")}, steps_per_epoch)
    else:
        k = _n_prototypes(facts)
        advice["n_prototypes"] = Choice((k.value,) * 3, f"{k.reason}; three heads, as in the paper")
        if config.method in ("deepcluster-v2", "sela-v2"):
            advice["first_labels"] = _first_labels(facts, kind)
            if settled("first_labels") == "patches" and not facts.adapts:
                advice |= from_patches(facts, advice, k.value)
        if config.method == "sela-v2":
            advice["epsilon"] = _epsilon(min(settled("n_prototypes")))
    if facts.adapts:
        advice |= adapting(facts, config.method)
    advice["final_lr"] = Choice(settled("lr") / 1000, "lr / 1000, as in the paper")
    return advice


def _first_labels(facts: Facts, kind: str) -> Choice:
    if facts.accelerated or kind == "glyph":
        return Choice("network", "as in the paper")
    return Choice("patches", "a short schedule learns more from them than from an untrained network")


def is_glyph(facts: Facts) -> bool:
    """Return whether these are small grey images whose mirror images are something else: letters, digits, signs."""
    return facts.is_grey and facts.short_side <= 64 and facts.mirror_distance > GLYPH_MIRROR_DISTANCE


def _deepcluster(facts: Facts, crops: dict[str, Choice], steps_per_epoch: int) -> dict[str, Choice]:
    """Choose one crop per image, and a top layer that can be learned within the steps of an epoch."""
    one = {name: Choice(choice.value[:1], choice.reason) for name, choice in crops.items()}
    one["n_crops"] = Choice((1,), "one crop per image, as in the paper")
    top_lr = Choice(0.05, "as in the paper")
    if steps_per_epoch < IMAGENET_STEPS_AT_256:
        lr = min(0.5, 0.05 * IMAGENET_STEPS_AT_256 / steps_per_epoch)
        top_lr = Choice(lr, f"high, since the top layer is reset every {steps_per_epoch:,} steps")
    # With as many whitened components as images, all images would be equally far apart.
    pca_width = min(256, max(16, facts.n // _IMAGES_PER_COMPONENT))
    return {
        **one,
        "n_prototypes": _n_prototypes(facts),
        "top_lr": top_lr,
        "pca_width": Choice(pca_width, "as in the paper" if pca_width == 256 else f"for {facts.n:,} images"),
        "head_width": Choice(0, "DeepCluster has no head"),
    }


def _augmentation(facts: Facts) -> tuple[str, str]:
    if is_glyph(facts):
        return "glyph", f": small grey images, {facts.mirror_distance:.1f} times as far from their mirror images as from each other"
    return ("grey", ": the images have no color") if facts.is_grey else ("photo", ": the images have color")


def _crops(facts: Facts, kind: str) -> dict[str, Choice]:
    side = facts.short_side
    native = f"the images are {side} pixels on their short side"
    if kind == "glyph":
        large, small = _in_fours(0.75 * side), _in_fours(0.5 * side)
        area, why = ((0.6, 1.0), (0.35, 0.6)), "small parts of a glyph look like other glyphs"
        n_crops: tuple[int, ...] = (2, 4)
    elif side <= 64:
        large, small = _in_fours(side), _in_fours(0.5 * side)
        area, why = ((0.3, 1.0), (0.1, 0.4)), "small images lose their subject in smaller crops"
        n_crops = (2, 4)
    else:
        large = min(224 if facts.accelerated else 64, _in_fours(0.75 * side))
        small = 96 if large == 224 else _in_fours(0.5 * large)
        n_crops = (2, 6) if facts.accelerated else (2, 4)
        if facts.accelerated:
            area, why = ((0.14, 1.0), (0.05, 0.14)), "as in the paper"
        else:
            area, why = ((0.3, 1.0), (0.1, 0.4)), "softer than the paper's, for a shorter schedule"
        native += "" if facts.accelerated else ", and there is no GPU"
    return {
        "n_crops": Choice(n_crops, "codes are computed from the two large ones"),
        "crop_pixels": Choice((large, small), native),
        "area": Choice(area, why),
    }


def _in_fours(pixels: float) -> int:
    return max(8, 4 * round(pixels / 4))


def _augment(facts: Facts, kind: str, why: str) -> dict[str, Choice]:
    strengths = AUGMENTATIONS[kind]
    reason = f"augmentation {kind}{why}"
    if kind != "glyph" and facts.short_side <= 64:
        strengths = dataclasses.replace(
            strengths,
            brightness=0.4,
            contrast=0.4,
            saturation=min(strengths.saturation, 0.2),
            hue=min(strengths.hue, 0.1),
            blur=0.0,
        )
        reason += "; softer and without blur for small images"
    return {f.name: Choice(getattr(strengths, f.name), reason) for f in dataclasses.fields(AugmentSettings)}


def _network(facts: Facts, kind: str) -> dict[str, Choice]:
    if kind == "glyph" and facts.n <= 20_000:
        encoder, head_width, why = "resnet10_small_quarter_s2", 256, "few small images of simple shapes"
    elif facts.short_side <= 64:
        encoder = "resnet18_small" if facts.accelerated else "resnet10_small_quarter_s2"
        head_width, why = (2048, "small images") if facts.accelerated else (512, "small images, and there is no GPU")
    elif facts.accelerated:
        encoder = "resnet50" if facts.n >= 100_000 else "resnet18"
        head_width, why = 2048, f"{facts.n:,} photos"
    else:
        encoder, head_width, why = "resnet10_small_half_s2", 512, "photos, and there is no GPU"
    return {"encoder": Choice(encoder, why), "head_width": Choice(head_width, why)}


def _n_prototypes(facts: Facts, at_most: float = 3000) -> Choice:
    # A power law through 3 prototypes per class on the digits (1,797 images, 10 classes) and on ImageNet (1.28 million, 1,000).
    by_images = min(3000, max(10, 30 * (facts.n / 1797) ** 0.7))
    what = f"{facts.n:,} images" if by_images <= at_most else f"{facts.n:,} images in small batches"
    k = min(facts.n, _round_figure(max(10, min(by_images, at_most))))
    return Choice(k, f"for {what}; a good value is 3 to 10 times the expected number of classes")


def _epsilon(n_prototypes: int) -> Choice:
    if n_prototypes >= 1000:
        return Choice(0.05, "as in the paper")
    return Choice(0.02, "few prototypes need harder codes")


def _round_figure(x: float) -> int:
    magnitude = 10 ** max(0, int(math.log10(x)) - 1)
    return int(round(x / magnitude) * magnitude)


def _batch(facts: Facts) -> Choice:
    """Choose about n / 28 images: a power of two, at least 16, at most n."""
    largest, why = (256, "") if facts.accelerated else (64, "; without a GPU many small steps learn more than few large ones")
    power = 2 ** round(math.log2(max(1, facts.n / 28)))
    batch = int(min(largest, max(16, power), facts.n))
    ranks = facts.n_ranks
    return Choice(batch - batch % ranks if batch >= ranks else batch, f"for {facts.n:,} images{why}")


def _epochs(facts: Facts, kind: str) -> dict[str, Choice]:
    if kind == "glyph":
        return {"epochs": Choice(int(min(30, max(5, 30 * (1797 / facts.n) ** 0.5))), "simple shapes are learned fast")}
    images_wanted, most = (10_000_000, 800) if facts.accelerated else (1_000_000, 200)
    reason = f"{facts.n:,} images" + ("" if facts.accelerated else ", and there is no GPU")
    return {"epochs": Choice(int(min(most, max(20, images_wanted / facts.n))), reason)}


def _optimizer(facts: Facts, kind: str, encoder: str) -> Choice:
    if encoder.startswith(_TRANSFORMERS):
        return Choice("adamw", "the encoder is a transformer")
    if facts.accelerated or kind == "glyph":
        return Choice("lars", "as in the paper")
    return Choice("adamw", "learns photos faster than LARS in a short schedule")


def _freeze(steps_per_epoch: int, total_steps: int) -> Choice:
    a_tenth = max(1, total_steps // 10)
    if steps_per_epoch <= a_tenth:
        return Choice(steps_per_epoch, "one epoch, as in the paper")
    return Choice(a_tenth, f"a tenth of {total_steps:,} steps")


def _schedule(optimizer: str, batch: int, total_steps: int) -> dict[str, Choice]:
    lr, why = _learning_rate(optimizer, batch, total_steps)
    return {
        "lr": Choice(lr, why),
        "weight_decay": Choice(0.01, "usual with AdamW") if optimizer == "adamw" else Choice(1e-6, "as in the paper"),
        "warmup_epochs": Choice(0.0, "as in the paper for small batches"),
    }


def _learning_rate(optimizer: str, batch: int, total_steps: int) -> tuple[float, str]:
    if optimizer == "adamw":
        return 0.003 * min(1.0, (batch / 64) ** 0.5), "measured on CIFAR-10"
    if optimizer == "sgd":
        return 0.05 * batch / 256, "in proportion to the batch"
    paper = 0.6 * batch / 256
    # Measured on the digits: 4 in a schedule of 840 steps. The paper's rate is for hundreds of thousands.
    short = 4.0 * min(1.0, (10_000 / total_steps) ** 0.5)
    return (
        (paper, "as in the paper, in proportion to the batch")
        if paper >= short
        else (short, f"high, for a schedule of {total_steps:,} steps")
    )
