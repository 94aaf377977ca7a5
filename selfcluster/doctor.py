"""What is here, and whether it works: versions, devices, extras, encoders, space, and a small run of each kind.

For whoever installs selfcluster on a new machine, and for reports of problems.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from selfcluster import hub
from selfcluster.api import explore, train
from selfcluster.clustering.metrics import matched_accuracy
from selfcluster.device import memory_limit, n_threads, precision_of
from selfcluster.errors import SelfclusterError
from selfcluster.formatting import duration
from selfcluster.inference.cluster_table import saved_table
from selfcluster.settings.config import BUNDLED, default_config

_VERSIONS = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "scipy", "pyarrow", "Pillow")
_EXTRAS = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "umap": ("umap",),
    "heif": ("pillow_heif",),
    "faiss": ("faiss",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
}
_IMAGES, _SECONDS = 400, 20
"""Digits that are explored, and seconds of training on all of them."""
_LEAST = 0.3
"""Share of the digits in the cluster of their class, which is far above chance and far below what was measured (0.6)."""


def describe() -> Iterator[tuple[str, str]]:
    """Yield what is here, each with a name."""
    yield "selfcluster", f"{version('selfcluster')}, Python {platform.python_version()}, {platform.platform()}"
    yield "versions", ", ".join(f"{name} {_version(name)}" for name in _VERSIONS)
    config = default_config("swav")
    for device in _devices():
        precision = str(precision_of(config, device)).removeprefix("torch.")
        yield f"device {device}", f"{_name(device)}, {precision}, {memory_limit(device) / 2**30:.1f} GiB that training may use"
    there = {extra: all(find_spec(module) for module in modules) for extra, modules in _EXTRAS.items()}
    missing = [extra for extra, is_there in there.items() if not is_there]
    install = f"; missing: {', '.join(missing)} (pip install 'selfcluster[{missing[0]}]')" if missing else ""
    yield "extras", (", ".join(extra for extra, is_there in there.items() if is_there) or "none") + install
    hub_answers = (
        "weights of others by name, since the hub answers" if not hub.is_offline() else "none by name, since the hub does not answer"
    )
    yield "encoders", f"{BUNDLED} with its weights, patches; {hub_answers}"
    for what, folder in {"this folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}.items():
        room = f"{shutil.disk_usage(folder).free / 2**30:,.1f} GiB free"
        yield what, f"{room}, {'can be written' if os.access(folder, os.W_OK) else 'CANNOT BE WRITTEN'}: {folder}"


def check(say: Callable[[str], None]) -> None:
    """Explore some digits and train on all of them, on the best device, within a minute; say what came out.

    Raises:
        SelfclusterError: something does not run, or it runs but learns nothing, so that the installation cannot be trusted.
    """
    digits = load_digits()
    images, labels = (16 * digits.images[:_IMAGES]).clip(0, 255).astype(np.uint8), digits.target[:_IMAGES]
    with tempfile.TemporaryDirectory() as name, _quiet():
        began = time.monotonic()
        explored = explore(images, out=Path(name) / "explored", k=10)
        found = matched_accuracy(labels, saved_table(explored.path)["cluster"].to_numpy())
        say(f"explore: {_IMAGES} digits in {duration(time.monotonic() - began)}, {100 * found:.0f} % in the cluster of their class")
        began = time.monotonic()
        trained = train("digits", out=Path(name) / "trained", max_minutes=_SECONDS / 60)
        losses = [row["train/loss"] for row in trained.metrics if "train/loss" in row]
        say(
            f"train: {trained.metrics[-1]['step']:,.0f} steps in {duration(time.monotonic() - began)}, loss {losses[0]:.2f} to {losses[-1]:.2f}"
        )
    if found < _LEAST or losses[-1] > losses[0]:
        raise SelfclusterError("it runs, but learns nothing; please report this with the lines above")
    say("all well")


@contextmanager
def _quiet() -> Iterator[None]:
    """Log only warnings."""
    logger = logging.getLogger("selfcluster")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


def _devices() -> list[torch.device]:
    """Return the devices that training can use."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if torch.backends.mps.is_available() else [])]
    return [torch.device(name) for name in names]


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {n_threads(default_config('swav'))} cores"
