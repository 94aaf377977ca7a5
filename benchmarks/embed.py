"""Embedding a folder of JPEG files, compared with the bare forward pass and with a torchvision loop.

    python -m benchmarks.embed [--images 1024] [--turns 5] [--encoder resnet18] [--pixels 64]

selfcluster reads, resizes and embeds images of 256 pixels in order. The bare pass finds them in memory, already resized and normalized.
The torchvision loop consists of ImageFolder, resizing and normalization in a DataLoader with one worker per core. All use the same
untrained network in one process and take turns. Results: results/embed.json.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.command_line import parser
from benchmarks.markdown import ratio
from benchmarks.photos import photos, save_jpegs
from benchmarks.record import record, seconds_of, spread
from selfcluster import methods
from selfcluster.data.sources import open_data
from selfcluster.device import precision_of, start
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import DataSettings, default_config, replace


def contestants(root: Path, n: int, encoder: str, pixels: int) -> dict[str, Callable[[], object]]:
    """Return the calls that embed all images under `root`."""
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

    return {
        "selfcluster": lambda: np.concatenate([rows.numpy() for rows in run.stream(images)]),
        "bare": lambda: [forward(batch) for batch in in_memory.split(256)],
        "torchvision": lambda: [forward(batch) for batch, _ in DataLoader(folder, 256, num_workers=os.cpu_count() or 1)],
    }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--images", type=int, default=1024)
    p.add_argument("--turns", type=int, default=5)
    p.add_argument("--encoder", nargs="*", default=["resnet10_small_half_s2", "resnet18", "resnet50"])
    p.add_argument("--pixels", type=int, default=128)
    a = p.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as root:
        save_jpegs(photos(a.images, 256), Path(root) / "all")
        for encoder in a.encoder:
            calls = contestants(Path(root), a.images, encoder, a.pixels)
            for call in calls.values():
                call()
            turns = [{name: seconds_of(call) for name, call in calls.items()} for _ in range(a.turns)]
            result = {
                "encoder": encoder,
                "images_per_second": {name: spread([a.images / turn[name] for turn in turns]) for name in calls},
                "ours_over": {
                    name: spread([turn[name] / turn["selfcluster"] for turn in turns]) for name in calls if name != "selfcluster"
                },
            }
            results.append(result)
            speeds = ", ".join(f"{name} {s['median']:,.0f} images/s" for name, s in result["images_per_second"].items())
            print(f"{encoder}: {speeds}; ours / bare {ratio(result['ours_over']['bare'])}", flush=True)
    print(f"-> {record('embed', {'images': a.images, 'from_pixels': 256, 'pixels': a.pixels, 'results': results}).name}")


if __name__ == "__main__":
    main()
