"""The drawings of the docs: `make drawings` writes them to docs/explanation/images.

Those of Sinkhorn-Knopp, of equal use and of empty clusters are computed by the package's own functions, those of scaling are from
benchmarks/results. What they show in numbers is printed too.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from svg import BLUE, COLORS, GRAY, INK, ORANGE, Drawing
from torch import Tensor
from torch.nn.functional import normalize

from selfcluster.clustering.kmeans import Clustering, kmeans
from selfcluster.clustering.metrics import prototypes_used
from selfcluster.clustering.sinkhorn import sinkhorn
from selfcluster.methods.losses import swapped_loss

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "explanation" / "images"


def loop() -> Drawing:
    """The two steps that all methods alternate."""
    d = Drawing(760, 270, "The loop of all methods: assign targets, predict them")
    for x, lines in ((20, ("images",)), (135, ("crops",)), (400, ("scores", "crops x prototypes"))):
        d.box(x, 130, 85 if x < 400 else 130, 50, *lines)
    d.box(250, 120, 120, 70, "network", "encoder, head,", "prototypes")
    d.box(385, 20, 160, 56, "assign", "k-means or", "Sinkhorn-Knopp", fill="#e8f0f9", stroke=BLUE)
    d.box(620, 24, 110, 48, "targets", "of each image")
    d.box(600, 127, 145, 56, "predict", "cross-entropy of", "scores and targets", fill="#fbeee6", stroke=ORANGE)
    for start, end in (((105, 155), (133, 155)), ((220, 155), (248, 155)), ((370, 155), (398, 155)), ((530, 155), (598, 155))):
        d.arrow(start, end)
    d.arrow((465, 130), (465, 78), color=BLUE)
    d.arrow((545, 48), (618, 48), color=BLUE)
    d.arrow((675, 72), (675, 125), color=BLUE)
    d.arrow((672, 183), (672, 222), (310, 222), (310, 192), color=ORANGE, dashed=True)
    d.text(490, 240, "gradient", color=ORANGE)
    d.text(373, 40, "SwAV: every step, over the batch", anchor="end", color=BLUE, size=12)
    d.text(373, 57, "others: before an epoch, over all images", anchor="end", color=BLUE, size=12)
    return d


def swapped() -> Drawing:
    """Swapped prediction: the code of one crop is predicted from the other."""
    d = Drawing(760, 270, "Swapped prediction of SwAV")
    d.box(15, 110, 75, 50, "image")
    for y, n in ((50, "1"), (180, "2")):
        d.box(120, y, 75, 40, f"crop {n}")
        d.box(232, y, 112, 40, f"embedding z{n}")
        d.box(380, y, 85, 40, f"scores {n}")
        d.arrow((90, 135), (118, y + 20))
        d.arrow((195, y + 20), (230, y + 20))
        d.arrow((344, y + 20), (378, y + 20))
    for y, name, is_code, scores in (
        (15, "code q1", True, 70),
        (85, "prediction p1", False, 70),
        (145, "prediction p2", False, 200),
        (215, "code q2", True, 200),
    ):
        fill, stroke = ("#e8f0f9", BLUE) if is_code else ("#fbeee6", ORANGE)
        d.box(515, y, 110, 36, name, fill=fill, stroke=stroke)
        d.arrow((465, scores), (513, y + 18), color=stroke)
    for y, start in ((103, (233, 103)), (163, (33, 163))):
        for end in start:
            d.arrow((625, end), (683, y), color=BLUE if end in (33, 233) else ORANGE)
    d.box(685, 86, 60, 34, "loss")
    d.box(685, 146, 60, 34, "loss")
    d.text(285, 262, "normalized by the head", color=GRAY, size=12)
    d.text(422, 145, "times prototypes", color=GRAY, size=12)
    d.text(640, 20, "Sinkhorn-Knopp", anchor="start", color=BLUE, size=12)
    d.text(640, 36, "no gradient", anchor="start", color=BLUE, size=12)
    d.text(640, 262, "softmax of scores / temperature: p", anchor="end", color=ORANGE, size=12)
    return d


_SCORES = torch.tensor(
    [
        [0.60, 0.50, 0.20, 0.30],
        [0.58, 0.30, 0.52, 0.20],
        [0.55, 0.45, 0.30, 0.41],
        [0.62, 0.20, 0.25, 0.30],
        [0.40, 0.35, 0.45, 0.30],
        [0.50, 0.42, 0.30, 0.46],
    ]
)
"""Cosines of six images with four prototypes, the first of which is near to most images."""


def normalization() -> Drawing:
    """Sinkhorn-Knopp on a small matrix of scores: prototypes end with equal shares."""
    d = Drawing(760, 265, "Sinkhorn-Knopp on six images and four prototypes")
    epsilon, cell, row = 0.05, 40, 26
    panels = {
        "scores": _SCORES,
        "softmax(scores / 0.05)": (_SCORES / epsilon).softmax(dim=1),
        "1 iteration": sinkhorn(_SCORES, epsilon=epsilon, iterations=1),
        "3 iterations": sinkhorn(_SCORES, epsilon=epsilon, iterations=3),
    }
    for i, (name, matrix) in enumerate(panels.items()):
        left = 20 + 185 * i
        d.text(left + 2 * cell, 30, name, bold=True)
        for r, values in enumerate(matrix.tolist()):
            for c, value in enumerate(values):
                d.cell(left + cell * c, 44 + row * r, cell - 2, row - 2, value, f"{value:.2f}")
        masses = matrix.sum(dim=0).tolist()
        if i:
            for c, mass in enumerate(masses):
                d.text(left + cell * (c + 0.5), 220, f"{mass:.2f}", size=12, color=ORANGE, bold=True)
            print(f"normalization, {name}: images of each prototype {[round(mass, 2) for mass in masses]}")
    d.text(20, 220, "images of each prototype:", anchor="start", size=12, color=ORANGE)
    d.text(
        20,
        248,
        "Rows are images, columns are prototypes. Equal shares would be 6 / 4 = 1.5 images each.",
        anchor="start",
        size=12,
        color=GRAY,
    )
    return d


def equal_use() -> Drawing:
    """A small network that learns codes with and without Sinkhorn-Knopp."""
    d = Drawing(760, 270, "Training with and without equal use of the prototypes")
    found = {"codes by Sinkhorn-Knopp": _train_toy(balanced=True), "codes by softmax": _train_toy(balanced=False)}
    steps = range(len(next(iter(found.values()))))
    for left, which, title, ticks in ((60, 0, "prototypes in use, of 8", (0, 2, 4, 6, 8)), (445, 1, "loss / ln 8", (0, 1, 2, 3))):
        lines = {name: [(step, rows[step][which]) for step in steps] for name, rows in found.items()}
        d.chart((left, 40), (280, 170), lines, title=title, x_title="step", x_ticks=(0, 100, 200, 300), y_ticks=ticks, names_at=0.45)
    for name, rows in found.items():
        print(
            f"equal use, {name}: at the end {rows[-1][0]:.2f} prototypes in use, loss / ln 8 {rows[-1][1]:.2f}, mean embedding {rows[-1][2]:.2f}"
        )
    return d


def _train_toy(*, balanced: bool) -> list[tuple[float, float, float]]:
    """Return prototypes in use, loss over ln K, and the squared length of the mean embedding, at each step."""
    torch.manual_seed(0)
    k, angles = 8, torch.arange(8) * math.pi / 4
    centers = torch.stack([angles.cos(), angles.sin()], dim=1)
    network = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    prototypes = torch.nn.Linear(16, k, bias=False)
    optimizer = torch.optim.SGD([*network.parameters(), *prototypes.parameters()], lr=0.5, momentum=0.9)
    rows = []
    for _ in range(301):
        points = centers[torch.randint(8, (256,))] + 0.1 * torch.randn(256, 2)
        views = torch.stack([points + 0.1 * torch.randn(256, 2) for _ in range(2)])
        embeddings = normalize(network(views), dim=2)
        scores = embeddings @ normalize(prototypes.weight, dim=1).T
        codes = torch.stack([sinkhorn(s) if balanced else (s / 0.05).softmax(dim=1) for s in scores.detach()])
        loss = swapped_loss(scores, codes, temperature=0.1)
        used = prototypes_used(scores.argmax(dim=2), k)
        rows.append((used, loss.item() / math.log(k), embeddings.mean(dim=(0, 1)).square().sum().item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rows


def empty_clusters() -> Drawing:
    """K-means from a bad start, with empty clusters left alone and filled."""
    d = Drawing(760, 330, "K-means with empty clusters left alone, and filled from the largest")
    generator = torch.Generator().manual_seed(1)
    centers = torch.tensor([[0.0, 0.0], [2.6, 0.3], [1.2, 1.9], [2.7, 2.2], [-0.6, 2.0]])
    points = torch.cat([c + 0.28 * torch.randn(60, 2, generator=generator) for c in centers])
    start = torch.cat([points[:2], torch.tensor([[6.0, 6.0], [6.5, 6.0], [6.0, 6.5]]), points[60:61], points[120:121]])
    for left, empty, title in ((20, "keep", "left alone"), (395, "split", "filled from the largest")):
        found = kmeans(points, len(start), init=start, empty=empty, iterations=20)  # type: ignore[arg-type]
        n_used = int((found.sizes > 0).sum())
        d.text(left + 172, 26, f"{title}: {n_used} of {len(start)} clusters in use", bold=True)
        d.text(left + 172, 312, f"sum of squared distances {found.inertia[-1]:.0f}", color=GRAY, size=12)
        _scatter(d, points, found, left)
        print(f"empty clusters, {empty}: {n_used} in use, sizes {found.sizes.tolist()}, inertia {found.inertia[-1]:.1f}")
    return d


def _scatter(d: Drawing, points: Tensor, found: Clustering, left: float) -> None:
    def place(point: Tensor) -> tuple[float, float]:
        x, y = point.tolist()
        return left + 75 + 75 * x, 260 - 75 * y

    for point, cluster in zip(points, found.assignments.tolist(), strict=True):
        d.dot(*place(point), 2.5, COLORS[cluster])
    for centroid, size in zip(found.centroids, found.sizes.tolist(), strict=True):
        if size:
            d.dot(*place(centroid), 5, INK, stroke="#fff")


def scaling() -> Drawing:
    """Time of a step over crops and prototypes, and time and memory of clusters over images."""
    d = Drawing(760, 265, "Time over crops, prototypes and images")
    step, many, assign = (_recorded(name) for name in ("growth_step", "many_images", "growth"))
    times = {name: [(float(n), r["milliseconds_a_step"]) for n, r in rows.items()] for name, rows in step["results"].items()}
    d.chart(
        (50, 40),
        (180, 170),
        {"": times["small crops"]},
        title="ms per step",
        x_title="small crops, beside two large",
        x_ticks=(0, 4, 8, 12, 16),
        y_ticks=(0, 20, 40, 60, 80),
        dots=True,
    )
    d.chart(
        (300, 40),
        (180, 170),
        {"": times["prototypes"]},
        title="ms per step",
        x_title="prototypes",
        x_ticks=(100, 1000, 10_000, 100_000),
        y_ticks=(10, 100, 1000),
        log=True,
        dots=True,
    )
    lines = {
        "table of clusters": [(r["n"], r["seconds"]) for r in many["results"]],
        "DeepCluster, assign": [(r["n"], r["seconds"]["median"]) for r in assign["results"]],
    }
    d.chart(
        (535, 40),
        (180, 170),
        lines,
        title="seconds",
        x_title="images",
        x_ticks=(10_000, 100_000, 1_000_000),
        y_ticks=(0.1, 1, 10, 100, 1000),
        log=True,
        dots=True,
        names_at=0.78,
    )
    return d


def _recorded(name: str) -> dict[str, Any]:
    return dict(json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()))


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for drawing in (loop, swapped, normalization, equal_use, empty_clusters, scaling):
        drawing().save(IMAGES / f"{drawing.__name__}.svg")
