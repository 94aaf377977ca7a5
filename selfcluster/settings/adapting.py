"""The recipe for weights that were trained on other images: what adapts them to these, in minutes of a CPU.

Everything but the last stage is frozen, so that it runs once for a few crops of each image. The labels are clusters of the graph of neighbors by
the initial features, fine and coarse, and stay as they are: the network learns to find them in every crop. What was tried: docs/log.md.
"""

from __future__ import annotations

from selfcluster.settings.choices import Choice, Facts
from selfcluster.settings.config import BUNDLED

METHOD = "deepcluster-v2"
"""The method that adapts weights if none is named."""

_IMAGES_PER_CLUSTER = (50, 25, 12)
_MOST_CLUSTERS = 3000


def adapting(facts: Facts, method: str) -> dict[str, Choice]:
    """Choose the settings that differ from those of training from scratch."""
    why = "to adapt pretrained weights"
    side = 224 if facts.accelerated else 128
    batch = min(128, facts.n)
    views = max(1, min(4, 40_000 // facts.n))
    advice = {
        "encoder": Choice(BUNDLED, "its weights come with the install"),
        "n_crops": Choice((1,), "every crop has the label of its image"),
        "crop_pixels": Choice((side,), f"{why}, which have seen large images"),
        "area": Choice(((0.3, 1.0),), why),
        "repeat_after": Choice(views, f"the frozen stages run once for each crop of {facts.n:,} images"),
        "freeze": Choice("but-last", f"{why}, the last stage is enough"),
        "brightness": Choice(0.4, why),
        "contrast": Choice(0.4, why),
        "saturation": Choice(0.0 if facts.is_grey else 0.4, why),
        "hue": Choice(0.0 if facts.is_grey else 0.1, why),
        "grey": Choice(0.0 if facts.is_grey else 0.1, why),
        "blur": Choice(0.0, why),
        "batch": Choice(batch - batch % facts.n_ranks if batch >= facts.n_ranks else batch, why),
        "epochs": Choice(6, f"{why}; more do not help"),
        "optimizer": Choice("adamw", why),
        "lr": Choice(0.001, why),
        "weight_decay": Choice(0.01, "usual with AdamW"),
        "warmup_epochs": Choice(0.5, why),
    }
    return advice | _of_method(facts, method)


def _of_method(facts: Facts, method: str) -> dict[str, Choice]:
    if method == "swav":
        return {
            "freeze": Choice("all", "SwAV makes pretrained features worse, so only the head is trained"),
            "n_crops": Choice((2,), "each predicts the code of the other"),
        }
    if method == "deepcluster":
        return {}
    why = "neighbors by pretrained features are better labels than those of a head that is untrained"
    ks = tuple(max(2, min(_MOST_CLUSTERS, facts.n // images)) for images in _IMAGES_PER_CLUSTER)
    return {
        "n_prototypes": Choice(ks, f"{' and '.join(map(str, _IMAGES_PER_CLUSTER))} images in a cluster"),
        "first_labels": Choice("neighbors", why),
        "first_label_epochs": Choice(0, "labels stay as they are: renewing them does not help"),
        "head_width": Choice(0, "the features themselves are trained"),
        "embedding_width": Choice(0, "the features themselves are trained"),
    }
