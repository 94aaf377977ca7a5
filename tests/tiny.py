"""Settings and data of a run that trains in a second."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from selfcluster.data.dataset import Data
from selfcluster.data.sources import open_data
from selfcluster.runs.log import Log
from selfcluster.settings.config import Config, DataSettings, default_config, flatten, replace
from selfcluster.training import state as parts

SETTINGS: dict[str, Any] = dict(
    n_crops=(2, 2),
    crop_pixels=(16, 8),
    area=((0.5, 1.0), (0.2, 0.5)),
    encoder="resnet10_small_quarter_s2",
    head_width=32,
    embedding_width=16,
    n_prototypes=8,
    freeze_steps=3,
    epochs=4,
    batch=8,
    lr=1.0,
    final_lr=0.01,
    log_steps=2,
    device="cpu",
    precision="float32",
)

OF_METHOD: dict[str, dict[str, Any]] = {
    "deepcluster": dict(n_crops=(1,), crop_pixels=(16,), area=((0.5, 1.0),), lr=0.05, final_lr=0.05),
    "deepcluster-v2": dict(n_prototypes=(8, 6, 8)),
    "sela-v2": dict(n_prototypes=(8, 6, 8)),
}


def config(method: str = "swav", **settings: Any) -> Config[Any]:
    known = flatten(default_config(method)).keys() - ({"head_width", "embedding_width"} if method == "deepcluster" else set())
    own = {name: value for name, value in SETTINGS.items() if name in known} | OF_METHOD.get(method, {})
    return replace(default_config(method), {**own, **settings})


def images(n: int = 36, pixels: int = 20, seed: int = 0) -> np.ndarray:
    """Smooth random color images, so that crops of one image resemble each other."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, (pixels, pixels), mode="bicubic", align_corners=False)
    return (smooth.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy()


def data(n: int = 36) -> Data:
    return open_data(images(n), DataSettings())


def folder_of_images(folder: Path, n: int = 30, broken: tuple[int, ...] = (7,)) -> Data:
    """The images as files, some of which cannot be read."""
    from PIL import Image

    for i, image in enumerate(images(n)):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    for i in broken:
        (folder / f"{i:03}.png").write_bytes(b"no image")
    return open_data(str(folder), DataSettings())


def training(given: Data | None = None, method: str = "swav", **settings: Any) -> parts.Training:
    return parts.build(config(method, **settings), given if given is not None else data(), torch.device("cpu"))


def no_extract(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing should be extracted")


class Silent(Log):
    """A log that keeps its messages and rows."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.said: list[str] = []
        self.warned: list[str] = []
        self.worked: list[tuple[str, int, int]] = []

    def say(self, message: str, level: int = logging.INFO) -> None:
        (self.warned if level >= logging.WARNING else self.said).append(message)

    def row(self, step: int, epoch: int, values: dict[str, float]) -> None:
        self.rows.append({"step": step, "epoch": epoch, **values})

    def progress(self, *_: Any) -> None:
        pass

    def working(self, what: str, done: int, total: int, speed: float) -> None:
        self.worked.append((what, done, total))

    def assigned(self, *_: Any) -> None:
        pass

    def losses(self) -> list[float]:
        return [row["train/loss"] for row in self.rows if "train/loss" in row]
