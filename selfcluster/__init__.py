"""Learn image representations from unlabeled images by clustering.

    import selfcluster as sc
    run = sc.train("photos/")            # settings are chosen for the images, printed, and can be overridden
    features = run.embed("photos/")
    run = sc.load("runs/photos-swav-1")

Names are imported when they are first used, so that importing the package, and `selfcluster --help`, do not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfcluster.api import Run as Run
    from selfcluster.api import explore as explore
    from selfcluster.api import load as load
    from selfcluster.api import train as train
    from selfcluster.clustering.kmeans import kmeans as kmeans
    from selfcluster.clustering.metrics import ami as ami
    from selfcluster.clustering.metrics import ari as ari
    from selfcluster.clustering.metrics import matched_accuracy as matched_accuracy
    from selfcluster.clustering.metrics import nmi as nmi
    from selfcluster.clustering.metrics import rankme as rankme
    from selfcluster.clustering.sinkhorn import sinkhorn as sinkhorn
    from selfcluster.data.crops import MultiCrop as MultiCrop
    from selfcluster.errors import CheckpointError as CheckpointError
    from selfcluster.errors import CollapseError as CollapseError
    from selfcluster.errors import ConfigError as ConfigError
    from selfcluster.errors import DataError as DataError
    from selfcluster.errors import DivergenceError as DivergenceError
    from selfcluster.errors import SelfclusterError as SelfclusterError
    from selfcluster.estimators import ClusterLearner as ClusterLearner
    from selfcluster.estimators import KMeans as KMeans
    from selfcluster.methods.losses import pseudo_label_loss as pseudo_label_loss
    from selfcluster.methods.losses import swapped_loss as swapped_loss
    from selfcluster.settings.config import Config as Config

_NAMES = {
    "api": ("Run", "explore", "load", "train"),
    "clustering.kmeans": ("kmeans",),
    "clustering.metrics": ("ami", "ari", "matched_accuracy", "nmi", "rankme"),
    "clustering.sinkhorn": ("sinkhorn",),
    "data.crops": ("MultiCrop",),
    "errors": ("CheckpointError", "CollapseError", "ConfigError", "DataError", "DivergenceError", "SelfclusterError"),
    "estimators": ("ClusterLearner", "KMeans"),
    "methods.losses": ("pseudo_label_loss", "swapped_loss"),
    "settings.config": ("Config",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("selfcluster")
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"selfcluster.{_HOME[name]}"), name)
    raise AttributeError(f"module 'selfcluster' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
