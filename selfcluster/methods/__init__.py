"""The methods by name; each is one file with one final class."""

from __future__ import annotations

from selfcluster.methods.base import Method
from selfcluster.methods.swav import SwAV

METHODS: dict[str, type[Method]] = {"swav": SwAV}

__all__ = ["METHODS", "Method"]
