"""Shared fixtures. With `SELFCLUSTER_TEST_TYPES=1`, annotations, including shapes, are checked at every call, which takes half as long again."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import scipy.linalg  # noqa: F401  (brings a BLAS of its own, which is limited below)
import torch
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

if os.environ.get("SELFCLUSTER_TEST_TYPES"):  # before anything imports the package
    import tests.typecheck  # noqa: F401

    install_import_hook("selfcluster", "tests.typecheck.checked")

# Plugins import numpy before a worker is pinned to its core (tests/__init__.py); its other threads would spin there.
threadpool_limits(1, user_api="blas")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _few_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _what_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Capture the package's log messages in `caplog.text`."""
    caplog.set_level(logging.INFO, logger="selfcluster")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images for development; skip the test if it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the development data is not here")
    return SHARED_DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
