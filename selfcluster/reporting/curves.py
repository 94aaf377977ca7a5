"""Training curves as small SVGs, drawn when the page is built, so that they need no script and print well.

Each has its own scale, and a line at the value to compare with, if there is one: ln K for the loss, K for the prototypes in use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfcluster.formatting import figure
from selfcluster.settings.config import Config
from selfcluster.training.health import ln_k

Rows = Sequence[Mapping[str, float]]
"""Rows of metrics.jsonl, oldest first."""

_MOST_POINTS = 240
"""Points of a curve; more cannot be distinguished at its width."""


def series(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Return the steps and values of one metric, without values that are not finite."""
    finite = [row for row in rows if name in row and math.isfinite(row[name])]
    return [row["step"] for row in finite], [row[name] for row in finite]


@dataclass(frozen=True)
class Curve:
    """A metric over the steps."""

    title: str
    caption: str
    """How to read the curve."""
    steps: tuple[float, ...]
    values: tuple[float, ...]
    line: float | None = None
    """Value to compare with, if any."""
    line_name: str = ""

    @property
    def low(self) -> float:
        """Lower end of the scale."""
        return min(self.values) if self.line is None else min(*self.values, self.line)

    @property
    def high(self) -> float:
        """Upper end of the scale."""
        return max(self.values) if self.line is None else max(*self.values, self.line)

    def height(self, value: float) -> float:
        """Return the height of a value on the scale, in [0, 1]."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def path(self, width: float, height: float) -> str:
        """Return the curve as an SVG path in a box of this size."""
        first, last = self.steps[0], self.steps[-1]
        across = [width * (step - first) / (last - first) if last > first else width / 2 for step in self.steps]
        down = [height * (1 - self.height(value)) for value in self.values]
        joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(across, down, strict=True))
        # A single point becomes a horizontal line, since SVG does not draw a path of one point.
        return f"M{joined}" if len(self.steps) > 1 else f"M0 {down[0]:.1f}L{width:.1f} {down[0]:.1f}"

    def description(self) -> str:
        """Return a text alternative for screen readers."""
        line = f"; {self.line_name} is {figure(self.line)}" if self.line is not None else ""
        over = f"over steps {self.steps[0]:,.0f} to {self.steps[-1]:,.0f}"
        return f"{self.title}: from {figure(self.values[0])} to {figure(self.values[-1])} {over}{line}"


_CURVES: tuple[tuple[str, str, str], ...] = (
    ("train/loss", "Loss", "Should fall below ln K, the loss of uniform predictions."),
    ("collapse/code_entropy", "Code entropy / ln K", "Should fall well below 1; 1 means that all codes are uniform."),
    ("cluster/nmi_previous", "NMI with the previous clusters", "Rises as the clusters settle."),
    ("collapse/mean_embedding", "Squared norm of the mean embedding", "Should stay small; 1 means that all embeddings are the same."),
    ("collapse/prototypes_used", "Prototypes in use", "Perplexity of the nearest prototype; close to K is good."),
    ("collapse/rankme", "Effective rank of the features", "RankMe; tens or more is good, near 1 is a collapse."),
    ("cluster/largest_share", "Share of the largest cluster", "Should stay small; near 1 means that one cluster has all images."),
    ("train/lr", "Learning rate", "Follows the schedule."),
    ("train/images_per_second", "Images per second", "Should be steady unless the machine is shared."),
    ("train/data_wait", "Share of time waiting for images", "Should be near 0; if not, use more workers."),
)
"""Metric, title and caption of each curve."""


def curves(rows: Rows, config: Config[Any]) -> list[Curve]:
    """Return a curve for each metric of the run."""
    lines = {
        "train/loss": (ln_k(config.n_prototypes), "ln K"),
        "collapse/prototypes_used": (float(config.n_prototypes[0]), "K"),
        "collapse/code_entropy": (1.0, "ln K"),
    }
    drawn = []
    for name, title, caption in _CURVES:
        steps, values = thinned(*series(rows, name))
        if values:
            line, line_name = lines.get(name, (None, ""))
            drawn.append(Curve(title, caption, tuple(steps), tuple(values), line, line_name))
    return drawn


def thinned(steps: Sequence[float], values: Sequence[float], most: int = _MOST_POINTS) -> tuple[list[float], list[float]]:
    """Average groups of successive points, so that at most `most` points are left; each keeps the last step of its group."""
    size = math.ceil(len(values) / most) or 1
    groups = [slice(start, start + size) for start in range(0, len(values), size)]
    return [steps[g][-1] for g in groups], [sum(values[g]) / len(values[g]) for g in groups]
