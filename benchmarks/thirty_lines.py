"""`explore --k` against tasnif, and the thirty lines that a user would write: timm's transform and network, torch's loader, scikit-learn's k-means.

    python -m benchmarks.thirty_lines PHOTOS [--turns 1] [--pixels 224 128]

PHOTOS is a folder with a folder per class. All have the same weights; the lines are run at timm's own 224 pixels, as tasnif is, and at 128 as on
our CPU default. tasnif takes part where it is installed. Result: results/thirty_lines.json.
"""

from __future__ import annotations

import logging
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from sklearn.cluster import KMeans
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import selfcluster as sc
from benchmarks.command_line import parser
from benchmarks.record import record, spread
from selfcluster.models.pretrained import load_bundled
from selfcluster.settings.config import BUNDLED


def lines(folder: Path, k: int, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the class and the cluster of each image."""
    model = timm.create_model(BUNDLED, num_classes=0).eval()
    load_bundled(model)  # what pretrained=True does where there is a network
    config = timm.data.resolve_data_config({"input_size": (3, pixels, pixels)}, model=model)
    data = ImageFolder(str(folder), transform=timm.data.create_transform(**config))
    with torch.inference_mode():
        features = torch.cat([model(batch) for batch, _ in DataLoader(data, batch_size=64, num_workers=2)])
    return np.array(data.targets), KMeans(k, n_init=10, random_state=0).fit_predict(features.numpy())


def with_tasnif(folder: Path, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the class and the cluster of each image, by tasnif with its own settings."""
    from tasnif import TasnifClusterer
    from tasnif.embeddings.timm_backend import TimmEmbedder

    embedder = TimmEmbedder(BUNDLED, pretrained=False, device="cpu")
    load_bundled(embedder._model)
    cluster_of = TasnifClusterer(k, embedder=embedder, show_progress=False).fit(folder).result_.as_dict()
    classes = np.unique([Path(file).parent.name for file in cluster_of], return_inverse=True)[1]
    return classes, np.array(list(cluster_of.values()))


def ours(folder: Path, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the class and the cluster of each image."""
    with tempfile.TemporaryDirectory() as out:
        run = sc.explore(folder, k=k, out=Path(out) / "run", device="cpu")
        run.report()
        table = run.table
    return np.unique(table["label"].to_pylist(), return_inverse=True)[1], table["cluster"].to_numpy()


def main() -> None:
    p = parser(__doc__)
    p.add_argument("photos", type=Path)
    p.add_argument("--turns", type=int, default=1)
    p.add_argument("--pixels", type=int, nargs="*", default=[224, 128])
    a = p.parse_args()
    logging.getLogger("selfcluster").setLevel(logging.WARNING)
    k, found = len(ImageFolder(str(a.photos)).classes), {}
    ways: dict[str, Any] = {f"lines at {pixels} px": lambda pixels=pixels: lines(a.photos, k, pixels) for pixels in a.pixels}
    if find_spec("tasnif"):
        ways["tasnif"] = lambda: with_tasnif(a.photos, k)
    for name, way in {**ways, "explore": lambda: ours(a.photos, k)}.items():
        seconds, accuracies, nmis = [], [], []
        for _ in range(a.turns):
            began = time.perf_counter()
            labels, clusters = way()
            seconds.append(time.perf_counter() - began)
            accuracies.append(sc.matched_accuracy(labels, clusters))
            nmis.append(sc.nmi(labels, clusters))
        found[name] = {"seconds": spread(seconds), "matched accuracy": spread(accuracies), "NMI": spread(nmis)}
        print(name, found[name], flush=True)
    print(record("thirty_lines", {"photos": a.photos.name, "k": k, "found": found}).name)


if __name__ == "__main__":
    main()
