"""Clusters of an encoder's features against classes: the tree of clusters, k-means, Ward and spectral clustering.

    python -m benchmarks.clusterings NAME DATA [--encoder patches | --run RUN] [--most 6000] [--classes 5 10 20 40] [--seeds 3]

Features are those of the pretrained encoder, of patches, or of a run. On all images (at most `--most`), and on subsets with some of the classes, balanced or long-tailed (sizes fall by a factor of 20). The number
of clusters is given, or found ("auto"). Results: results/clusterings-NAME.json.
"""

from __future__ import annotations

import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.command_line import parser
from benchmarks.record import record
from selfcluster import ami, explore, kmeans, load, matched_accuracy, nmi
from selfcluster.clustering.hierarchy import find_clusters
from selfcluster.clustering.neighbor_graph import graph_embedding, neighbor_graph

Labels = NDArray[np.int64]
_LARGEST, _TAIL = 300, 20
"""Images of the largest class of a subset, and how often the smallest class of a long-tailed one fits in it."""


def by_kmeans(rows: Tensor, k: int) -> Labels:
    return kmeans(rows, k, spherical=True, init="k-means++", n_init=10, iterations=100, tolerance=1e-4).assignments.numpy()


def by_tree(rows: Tensor, k: int | None) -> Labels:
    found = find_clusters(rows, k=k)
    clusters = found.tree.cut(k or found.natural)
    return clusters[(rows @ found.means.T).argmax(dim=1).numpy()]


METHODS = {
    "tree": by_tree,
    "k-means": by_kmeans,
    "Ward, 64 components": lambda rows, k: AgglomerativeClustering(k).fit_predict(
        (rows @ torch.linalg.svd(rows, full_matrices=False).Vh[:64].T).numpy()
    ),
    "spectral": lambda rows, k: by_kmeans(torch.from_numpy(graph_embedding(neighbor_graph(rows), power=2)).float(), k),
    "tree, auto": lambda rows, k: by_tree(rows, None),
}


def features_of(a: Namespace) -> tuple[Tensor, Labels]:
    """Return the features of the encoder, and the class of each row."""
    with tempfile.TemporaryDirectory() as folder:
        run = load(a.run) if a.run else explore(a.data, encoder=a.encoder, out=Path(folder) / "run")
        opened, features = run.opened.data(a.data), torch.from_numpy(run.embed(a.data))
    assert opened.images.labels is not None
    chosen = np.sort(np.random.default_rng(0).permutation(len(features))[: a.most])
    return features[chosen], opened.images.labels.codes[chosen]


def subsets(labels: Labels, numbers: list[int], n_seeds: int) -> Iterator[tuple[str, int, Labels]]:
    """Yield the name of a subset, its seed, and its rows."""
    yield "all", 0, np.arange(len(labels))
    sizes = np.bincount(labels)
    for seed in range(n_seeds):
        for n in (n for n in numbers if n <= (sizes >= 20).sum()):
            draw = np.random.default_rng(seed)
            classes = draw.permutation(np.flatnonzero(sizes >= 20))[:n]
            even = min(_LARGEST, int(np.median(sizes[classes])))
            wanted = {"balanced": [even] * n, "long-tailed": [max(8, round(_LARGEST * _TAIL ** (-i / max(1, n - 1)))) for i in range(n)]}
            for name, counts in wanted.items():
                rows = [draw.permutation(np.flatnonzero(labels == c))[:count] for c, count in zip(classes, counts, strict=True)]
                yield f"{n} classes, {name}", seed, np.sort(np.concatenate(rows))


def measure(features: Tensor, labels: Labels) -> Iterator[dict[str, Any]]:
    """Yield the figures of each method."""
    rows, k = normalize(features - features.mean(dim=0)), len(np.unique(labels))
    for name, method in METHODS.items():
        began = time.perf_counter()
        clusters = method(rows, k)
        seconds, scores = time.perf_counter() - began, {"accuracy": matched_accuracy, "nmi": nmi, "ami": ami}
        yield {
            "method": name,
            "classes": k,
            "clusters": len(np.unique(clusters)),
            "seconds": seconds,
            **{score: of(labels, clusters) for score, of in scores.items()},
        }


def main() -> None:
    p = parser(__doc__)
    p.add_argument("name")
    p.add_argument("data")
    p.add_argument("--encoder")
    p.add_argument("--run")
    p.add_argument("--most", type=int, default=6000)
    p.add_argument("--classes", type=int, nargs="*", default=[5, 10, 20, 40])
    p.add_argument("--seeds", type=int, default=3)
    a = p.parse_args()
    features, labels = features_of(a)
    found = []
    for subset, seed, rows in subsets(labels, a.classes, a.seeds):
        for figures in measure(features[torch.from_numpy(rows)], labels[rows]):
            found.append({"subset": subset, "seed": seed, "images": len(rows), **figures})
            print({key: round(value, 3) if isinstance(value, float) else value for key, value in found[-1].items()}, flush=True)
    encoder = "trained" if a.run else a.encoder or "pretrained"
    print(record(f"clusterings-{a.name}", {"name": a.name, "encoder": encoder, "found": found}).name)


if __name__ == "__main__":
    main()
