"""Settings far from what works anywhere, which are named when training collapses, learns nothing or diverges."""

from __future__ import annotations

from typing import Any

from selfcluster.settings.config import Config, SwavSettings

_OF_METHOD = {"epsilon": (0.2, 0.05), "temperature": (0.5, 0.1), "top_lr": (5.0, 0.05)}
"""For each: what is too large, and the paper's value."""
_LARGE_LR = {"lars": 10.0, "sgd": 1.0, "adamw": 0.02}
"""Up to a batch of 1,024, from which on rates grow with it."""
_MANY_PROTOTYPES = 16
"""Prototypes for each embedding that Sinkhorn-Knopp balances codes over, from which on most get nothing of a batch."""
_FEW_IMAGES = 5
"""Images of a cluster, below which labels are as good as random."""


def suspects(config: Config[Any], n_images: int) -> list[str]:
    """Return the settings that are the likely cause, with their values and what to do; empty if none stands out.

    Args:
        config: settings of the run.
        n_images: that it trains on.
    """
    objective, optim = config.objective, config.optim
    found = []
    for name, (limit, paper) in _OF_METHOD.items():
        if (value := getattr(objective, name, 0.0)) > limit:
            found.append(f"{name} {value:g} is far above the paper's {paper:g}; lower it")
    if optim.lr > _LARGE_LR[optim.optimizer] * max(1.0, optim.batch / 1024):
        found.append(f"lr {optim.lr:g} is far above what {optim.optimizer} bears; lower it, or leave it to the recipe")
    k = max(config.n_prototypes)
    if isinstance(objective, SwavSettings):
        rows = optim.batch + objective.queue_length
        if k > _MANY_PROTOTYPES * rows:
            found.append(f"n_prototypes {k} is {k / rows:.0f} times the batch; use fewer, a larger batch, or a queue (queue_length)")
    elif k > n_images / _FEW_IMAGES:
        found.append(f"n_prototypes {k} leaves {n_images / k:.1f} images for each; use fewer")
    return found
