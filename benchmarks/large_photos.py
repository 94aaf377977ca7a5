"""Photos of 12 megapixels: reading and embedding them as `explore` does, against decoding and the forward pass by themselves.

    python -m benchmarks.large_photos DATA [--n 96] [--turns 5]

The photos are enlarged from those of DATA to 4000 x 3000, as JPEG. By themselves: Pillow decodes each at the smallest scale that JPEG offers and
resizes it, in as many threads as there are cores; the encoder runs on batches that are ready. Result: results/large_photos.json.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.command_line import parser
from benchmarks.record import record, spread
from selfcluster.data.readers.images import Images
from selfcluster.data.sources import open_data
from selfcluster.device import precision_of, start
from selfcluster.models.encoders import create_encoder
from selfcluster.models.features import extract_features
from selfcluster.settings.config import BUNDLED, DataSettings, default_config

SIDE, CPU = 128, torch.device("cpu")


def enlarge(images: Images, n: int, folder: Path) -> list[Path]:
    """Write n photos of 12 megapixels, with some noise, as a sensor has it."""
    files, rng = [], np.random.default_rng(0)
    for number, index in enumerate(np.linspace(0, len(images) - 1, n).astype(int)):
        small = Image.fromarray(images.decode(int(index)).pixels.permute(1, 2, 0).numpy()).convert("RGB")
        large = np.asarray(small.resize((4000, 3000), Image.Resampling.BICUBIC), dtype=np.int16) + rng.integers(-6, 7, (3000, 4000, 1))
        files.append(folder / f"{number:04}.jpg")
        Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


def decode(file: Path) -> torch.Tensor:
    """Return a photo at the side of the encoder, decoded as small as possible."""
    with Image.open(file) as image:
        image.draft("RGB", (SIDE, SIDE))
        width, height = image.size
        scale = SIDE / min(width, height)
        small = np.array(image.convert("RGB").resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC))
    top, left = ((side - SIDE) // 2 for side in small.shape[:2])
    return torch.from_numpy(small[top : top + SIDE, left : left + SIDE]).permute(2, 0, 1)


def main() -> None:
    p = parser(__doc__)
    p.add_argument("data")
    p.add_argument("--n", type=int, default=96)
    p.add_argument("--turns", type=int, default=5)
    a = p.parse_args()
    start("cpu")
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    encoder = create_encoder(BUNDLED, pretrained=True).eval().to(memory_format=torch.channels_last)
    precision = precision_of(default_config("explore"), CPU)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(cores) as pool:
        files = enlarge(open_data(a.data, DataSettings()).images, a.n, Path(folder))
        photos = open_data(folder, DataSettings()).images
        rows = []
        for _ in range(a.turns + 1):  # the first warms up
            marks = [time.perf_counter()]
            decoded = torch.stack(list(pool.map(decode, files)))
            marks.append(time.perf_counter())
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                for batch in decoded.split(64):
                    encoder((batch.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))
            marks.append(time.perf_counter())
            extract_features(encoder, photos, pixels=SIDE, interpolation="bicubic", device=CPU, precision=precision, threads=cores)
            marks.append(time.perf_counter())
            rows.append(dict(zip(("decode", "forward", "ours"), np.diff(marks).tolist(), strict=True)))
    ratios = [row["ours"] / (row["decode"] + row["forward"]) for row in rows[1:]]
    for row, ratio in zip(rows[1:], ratios, strict=True):
        print({name: round(seconds, 2) for name, seconds in row.items()}, f"ratio {ratio:.2f}", flush=True)
    seconds = {name: spread([row[name] for row in rows[1:]]) for name in rows[0]}
    print(record("large_photos", {"n": a.n, "megapixels": 12, "pixels": SIDE, "ratio": spread(ratios), "seconds": seconds}).name)


if __name__ == "__main__":
    main()
