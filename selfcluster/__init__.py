"""Image representations from unlabelled images by clustering.

    import selfcluster as sc
    run = sc.train("photos/")            # settings follow from the images, are printed, and can be overridden
    features = run.embed("photos/")
    run = sc.load("runs/photos-swav-1")

Names are loaded when they are first used, so that importing the package, and the command line's `--help`, need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfcluster.api import Run as Run
    from selfcluster.api import load as load
    from selfcluster.api import train as train
    from selfcluster.errors import CheckpointError as CheckpointError
    from selfcluster.errors import CollapseError as CollapseError
    from selfcluster.errors import ConfigError as ConfigError
    from selfcluster.errors import DataError as DataError
    from selfcluster.errors import DivergenceError as DivergenceError
    from selfcluster.errors import SelfclusterError as SelfclusterError
    from selfcluster.estimators import ClusterLearner as ClusterLearner
    from selfcluster.estimators import KMeans as KMeans
    from selfcluster.settings.config import Config as Config

_HOME = {
    "ClusterLearner": "estimators",
    "CheckpointError": "errors",
    "CollapseError": "errors",
    "Config": "settings.config",
    "ConfigError": "errors",
    "DataError": "errors",
    "DivergenceError": "errors",
    "KMeans": "estimators",
    "Run": "api",
    "SelfclusterError": "errors",
    "load": "api",
    "train": "api",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME:
        return getattr(import_module(f"selfcluster.{_HOME[name]}"), name)
    raise AttributeError(f"module 'selfcluster' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
