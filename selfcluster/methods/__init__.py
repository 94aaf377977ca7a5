"""The methods by name; each is one file with one final class."""

from __future__ import annotations

from typing import Any

from selfcluster.methods.base import Method
from selfcluster.methods.deepcluster import DeepCluster
from selfcluster.methods.deepcluster_v2 import DeepClusterV2
from selfcluster.methods.sela_v2 import SelaV2
from selfcluster.methods.swav import SwAV

METHODS: dict[str, type[Method[Any]]] = {
    "swav": SwAV,
    "deepcluster": DeepCluster,
    "deepcluster-v2": DeepClusterV2,
    "sela-v2": SelaV2,
}

__all__ = ["METHODS", "Method"]
