"""The recipe where the first labels are clusters of patches: a small network learns them in minutes of a CPU.

One crop of each image is enough, since its label is given, and the labels stay as they are. What was tried: docs/log.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from selfcluster.settings.choices import Choice, Facts

_PARTS = (0.2, 1.0, 2.0)
"""Clusters of each head, as a share of the recipe's number."""


def from_patches(facts: Facts, usual: Mapping[str, Choice], n_clusters: int) -> dict[str, Choice]:
    """Choose the settings that differ from the usual ones of DeepCluster-v2 and SeLa-v2.

    Args:
        facts: about the images.
        usual: choices where labels are those of the network.
        n_clusters: the usual number.
    """
    why = "to learn clusters of patches"
    ks = tuple(min(facts.n, max(2, round(part * n_clusters))) for part in _PARTS)
    advice = {
        "first_label_epochs": Choice(0, "labels stay as they are"),
        "n_prototypes": Choice(ks, f"coarse and fine, around the {n_clusters} that are usual for {facts.n:,} images"),
        "n_crops": Choice((1,), "every crop has the label of its image"),
        "crop_pixels": Choice(usual["crop_pixels"].value[:1], usual["crop_pixels"].reason),
        "area": Choice(((0.4, 1.0),), why),
        "jitter": Choice(0.0, f"{why}, which are harder to learn with changes of color"),
        "grey": Choice(0.0, f"{why}, which are harder to learn with changes of color"),
        "blur": Choice(0.0, why),
        "head_width": Choice(0, why),
    }
    if facts.short_side <= 64 and not facts.accelerated:
        advice["encoder"] = Choice("resnet18_small_quarter", f"{why} of small images, and there is no GPU")
    return advice
