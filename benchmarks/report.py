"""Time, memory and size of a report for growing numbers of images, and how it does in a browser.

    python -m benchmarks.report cifar10-train.npz cifar10-val.npz [--sizes 1000 10000 50000 1000000] [--k 100] [--repeats 3]

Measured from a `Page` to the bytes of the file (neighbors, thumbnails, galleries); without training, embedding, clustering and the search for
near-duplicates. Features are 13 x 13 pixels, 507 wide; clusters come from k-means; the map shows two principal components. More images than
the files have are the same ones again. In Chromium without a GPU, 1440 x 900 pixels: the time until the first picture of the mosaic is drawn, and
the time between frames while the map is panned, as dots and as thumbnails. Each measurement is a new process. Results: results/report.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import SUPPRESS
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.command_line import parser
from benchmarks.peak import peak_of
from benchmarks.record import record, spread
from selfcluster.clustering.duplicates import thumbnails
from selfcluster.clustering.kmeans import kmeans
from selfcluster.clustering.tree import means_of, ward_of_means
from selfcluster.clustering.whitening import fit_whitening
from selfcluster.data.readers.images import ArrayImages
from selfcluster.data.sources import open_data
from selfcluster.models.features import raw_pixels
from selfcluster.reporting.page import Page
from selfcluster.reporting.render import build
from selfcluster.runs.environment import Environment
from selfcluster.settings.config import DataSettings, default_config
from tests.browser import CHROMIUM, chromium

_FIRST = """const look = () => {
  const photo = document.querySelector("#mosaic .photo");
  const isThere = photo && photo.style.backgroundImage;
  requestAnimationFrame(isThere ? () => (window.firstPicture = performance.now()) : look);
};
requestAnimationFrame(look);"""

_PAN = """new Promise((done) => {
  const [plot, times] = [document.querySelector("#plot"), []];
  let last = performance.now();
  const step = () => {
    times.push(performance.now() - last);
    last = performance.now();
    if (times.length > 90) return done(times.slice(1));
    plot.dispatchEvent(new KeyboardEvent("keydown", { key: times.length % 60 < 30 ? "ArrowLeft" : "ArrowRight" }));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


def page_of(files: list[Path], n: int, k: int) -> Page:
    """Return a page of the first n images of these files, in k clusters."""
    arrays = [open_data(file, DataSettings()).images for file in files]
    joined = np.concatenate([images.array for images in arrays if isinstance(images, ArrayImages)])
    some = ArrayImages(joined[:n])
    again = np.arange(n) % len(joined)
    features, looks = (raw_pixels(some, pixels=side).numpy() for side in (13, thumbnails.side))
    clusters = kmeans(features, k)
    nearest = torch.cdist(torch.from_numpy(features), clusters.centroids).topk(2, dim=1, largest=False).values.numpy()[again]
    assignments = clusters.assignments.numpy()[again]
    order = np.lexsort((nearest[:, 0], assignments))
    rank = np.empty(n, dtype=np.int32)
    rank[order] = np.concatenate([np.arange(size) for size in np.bincount(assignments)])
    plane = fit_whitening(features)(torch.from_numpy(features))[:, :2].numpy()[again]
    images = ArrayImages(joined[again])
    table = pa.table(
        {
            "path": images.paths().cast(pa.string()),
            "index": np.arange(n),
            "cluster": assignments.astype(np.int32),
            "centroid": assignments.astype(np.int32),
            "distance": nearest[:, 0],
            "margin": nearest[:, 1] - nearest[:, 0],
            "rank_in_cluster": rank,
            "x": plane[:, 0],
            "y": plane[:, 1],
            "is_outlier": np.zeros(n, dtype=bool),
            "duplicate_of": pa.nulls(n, pa.int64()),
        }
    )
    where = " and ".join(file.name for file in files)
    centered = features - features.mean(axis=0)
    tree = ward_of_means(*means_of(centered.astype(np.float64), clusters.assignments.numpy(), k))
    config, environment = default_config("swav"), Environment()
    return Page(
        "benchmark",
        where,
        config,
        [],
        environment,
        None,
        table,
        features[again],
        images,
        looks=looks[again],
        tree=tree,
        threads=torch.get_num_threads(),
    )


def in_browser(content: bytes) -> dict[str, Any]:
    """Return the seconds until the first picture, and the milliseconds between frames while the map is panned."""
    with tempfile.TemporaryDirectory() as folder, chromium(Path(folder, "profile")) as window:
        file = Path(folder, "report.html")
        file.write_bytes(content)
        window.size(1440, 900)
        window.call("Page.addScriptToEvaluateOnNewDocument", source=_FIRST)
        window.open(file)
        found = {"first_picture_seconds": window.until("window.firstPicture") / 1000}
        window.middle_of("#canvas")
        for kind in ("dots", "thumbnails"):
            if kind == "thumbnails":
                window.click("#dots")
            window.value("document.querySelector('#plot').focus()")
            window.key("+", 187)
            window.key("+", 187)
            frames = np.array(window.value(_PAN))
            found[f"frame_ms_{kind}"] = {"median": float(np.median(frames)), "p95": float(np.quantile(frames, 0.95))}
        return found


def main() -> None:
    p = parser(__doc__)
    p.add_argument("files", type=Path, nargs="+")
    p.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000, 1_000_000])
    p.add_argument("--k", type=int, default=100)
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--measure", type=int, default=0, help=SUPPRESS)
    a = p.parse_args()
    if a.measure:
        page, built = page_of(a.files, a.measure, a.k), []
        peak = peak_of(lambda: built.append(build(page)))
        print(json.dumps({**peak, "bytes": len(built[0]), **(in_browser(built[0]) if CHROMIUM else {})}))
        return
    results: list[dict[str, Any]] = []
    for n in a.sizes:
        command = [sys.executable, "-m", "benchmarks.report", *map(str, a.files), "--measure", str(n), "--k", str(a.k)]
        runs = [json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout) for _ in range(a.repeats)]
        seconds = spread([run["seconds"] for run in runs])
        seen = {name: runs[0][name] for name in ("first_picture_seconds", "frame_ms_dots", "frame_ms_thumbnails") if name in runs[0]}
        peak = spread([run["anonymous"] for run in runs])
        results.append({"n": n, "seconds": seconds, "peak_bytes": peak, "bytes": runs[0]["bytes"], **seen})
        print(f"{n:,} images: {seconds['median']:.1f} s, {runs[0]['bytes'] / 1e6:.1f} MB", flush=True)
    print(f"-> {record('report', {'k': a.k, 'results': results}).name}")


if __name__ == "__main__":
    main()
