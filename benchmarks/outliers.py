"""Outliers: images of other sets, and noise, beyond the limit that 1 % of the images exceed.

    python -m benchmarks.outliers NAME=DATA ... [--most 5000] [--seeds 3]

Half of each set is clustered images; the other half and the other sets are new ones. Features are those of `explore`. "noise" is noise of
single pixels, gray noise and smooth noise; "colors" are single colors. Results: results/outliers.json.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.command_line import parser
from benchmarks.record import record, spread
from selfcluster import explore, load
from selfcluster.clustering.outliers import fit_outlier_model
from selfcluster.inference.embeddings import embed

_NEW = 1000
"""New images of each set."""


def noise(rng: np.random.Generator) -> np.ndarray:
    """Return a thousand images of noise."""
    single = rng.integers(0, 256, (400, 64, 64, 3))
    gray = rng.normal(128, 40, (300, 64, 64, 1)).repeat(3, axis=3)
    smooth = (
        torch.nn.functional.interpolate(torch.from_numpy(rng.random((300, 3, 6, 6))), (64, 64), mode="bicubic").permute(0, 2, 3, 1) * 255
    )
    return np.concatenate([single, gray, smooth.numpy()]).clip(0, 255).astype(np.uint8)


def colors(rng: np.random.Generator) -> np.ndarray:
    """Return single colors."""
    return np.broadcast_to(rng.integers(0, 256, (300, 1, 1, 3), dtype=np.uint8), (300, 64, 64, 3)).copy()


def features_of(data: Any, folder: Path) -> Tensor:
    """Return the features of all readable images."""
    run = explore(data, out=folder, k=2)
    rows = embed(load(run.path).opened, data)
    return torch.from_numpy(rows[~np.isnan(rows[:, 0])])


def rates(sets: dict[str, Tensor], base: str, *, most: int, seed: int) -> dict[str, float]:
    """Return the share of new images of each set, the other half of the base's own first, that are outliers."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(sets[base])))
    half = len(order) // 2
    model, _ = fit_outlier_model(sets[base][order[:half][:most]], seed=seed)
    new = {"its own": sets[base][order[half:][:most]]} | {name: rows[:_NEW] for name, rows in sets.items() if name != base}
    return {name: float(model.are_outliers(rows).float().mean()) for name, rows in new.items()}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("sets", nargs="+", metavar="NAME=DATA")
    p.add_argument("--most", type=int, default=5000)
    p.add_argument("--seeds", type=int, default=3)
    a = p.parse_args()
    rng = np.random.default_rng(0)
    given: dict[str, Any] = dict(pair.split("=", 1) for pair in a.sets)
    with tempfile.TemporaryDirectory() as folder:
        sets = {
            name: features_of(data, Path(folder) / name) for name, data in {**given, "noise": noise(rng), "colors": colors(rng)}.items()
        }
    found: dict[str, dict[str, Any]] = {}
    for base in given:
        of_seeds = [rates(sets, base, most=a.most, seed=seed) for seed in range(a.seeds)]
        found[base] = {name: spread([rate[name] for rate in of_seeds]) for name in of_seeds[0]}
        print(f"{base}: " + ", ".join(f"{name} {100 * share['median']:.1f} %" for name, share in found[base].items()), flush=True)
    print(f"-> {record('outliers', {'n': {name: len(rows) for name, rows in sets.items()}, 'most': a.most, 'shares': found})}")


if __name__ == "__main__":
    main()
