"""A misspelled name is answered with the nearest known one."""

from __future__ import annotations

import pytest

from selfcluster.errors import ConfigError, known


def test_known_names_the_nearest() -> None:
    assert known("a", ["a"], "letter") == "a"
    with pytest.raises(ConfigError, match="unknown method 'swaw'; did you mean 'swav'"):
        known("swaw", ["swav"], "method")
    with pytest.raises(ConfigError, match=r"unknown method \[\]; choose from swav"):
        known([], {"swav": 0}, "method")
