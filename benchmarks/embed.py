"""Embedding a folder of JPEG files beside the bare forward pass, and beside the loop that one would write with torchvision.

    python -m benchmarks.embed [--images 1024] [--turns 5] [--encoder resnet18] [--pixels 64]

Ours reads, resizes and embeds the images of 256 pixels in order; the bare pass has them in memory, prepared; the loop is torchvision's ImageFolder, resize
and normalization in a DataLoader with a worker a core. The same untrained network for all, in one process and in turns. Results: results/embed.json.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.photos import as_jpegs, photos
from benchmarks.record import record, spread
from selfcluster import methods
from selfcluster.data.sources import open_data
from selfcluster.device import precision_of, start
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import DataSettings, default_config, replace


def contestants(root: Path, n: int, encoder: str, pixels: int) -> dict[str, Callable[[], object]]:
    device = start("auto")
    config = replace(default_config("swav"), {"encoder": encoder, "crop_pixels": (pixels, pixels // 2), "n_prototypes": 30})
    run = OpenRun(root, config, str(root), methods.build_model(config).to(device))
    images = open_data(str(root), DataSettings()).images
    transform = v2.Compose(
        [
            v2.Resize((pixels, pixels), antialias=True),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )
    folder = ImageFolder(root, transform)
    in_memory = torch.stack([folder[i][0] for i in range(n)]).to(device).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def forward(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision_of(config, device) == torch.bfloat16):
            return run.model.encode(batch.to(device)).float().cpu()

    def loop() -> object:
        return [forward(batch) for batch, _ in DataLoader(folder, 256, num_workers=os.cpu_count() or 1)]

    return {
        "selfcluster": lambda: np.concatenate([rows.numpy() for rows in run.stream(images)]),
        "bare": lambda: [forward(batch) for batch in in_memory.split(256)],
        "torchvision": loop,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--encoder", nargs="*", default=["resnet10_small_half_s2", "resnet18", "resnet50"])
    parser.add_argument("--pixels", type=int, default=128)
    a = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        as_jpegs(photos(a.images, 256), root / "all")
        for encoder in a.encoder:
            who = contestants(root, a.images, encoder, a.pixels)
            for run in who.values():
                run()
            turns = [{name: _seconds(run) for name, run in who.items()} for _ in range(a.turns)]
            found = {
                "encoder": encoder,
                "images_per_second": {name: spread([a.images / turn[name] for turn in turns]) for name in who},
                "ours_over": {name: spread([turn[name] / turn["selfcluster"] for turn in turns]) for name in who if name != "selfcluster"},
            }
            results.append(found)
            speeds = ", ".join(f"{name} {s['median']:,.0f} images/s" for name, s in found["images_per_second"].items())
            print(f"{encoder}: {speeds}; ours / bare {found['ours_over']['bare']['median']:.2f}", flush=True)
    print(record("embed", {"images": a.images, "from_pixels": 256, "pixels": a.pixels, "results": results}).name)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
