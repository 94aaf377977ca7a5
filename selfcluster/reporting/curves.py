"""The course of training as small curves, drawn as SVG when the page is made: they need no script and print well.

Each has a scale of its own, and where a figure is known beside which the values have to be read, a line at it: ln K for the loss, K
for the prototypes in use.
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
"""Of metrics.jsonl, oldest first."""

_MOST_POINTS = 240
"""More could not be told apart at the width of a curve."""


def series(rows: Rows, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric; what is not finite is left out."""
    found = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
    return [step for step, _ in found], [value for _, value in found]


@dataclass(frozen=True)
class Curve:
    """One metric over the steps."""

    title: str
    says: str
    """How to read it."""
    steps: tuple[float, ...]
    values: tuple[float, ...]
    line: float | None = None
    """A value that is marked, if any."""
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
        """Where a value stands on the scale, in [0, 1]."""
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def path(self, width: float, height: float) -> str:
        """The curve as an SVG path in a box of this size."""
        first, last = self.steps[0], self.steps[-1]
        across = [width * (step - first) / (last - first) if last > first else width / 2 for step in self.steps]
        down = [height * (1 - self.height(value)) for value in self.values]
        joined = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(across, down, strict=True))
        # A lone point is drawn as a dash, since a path of one point is not drawn at all.
        return f"M{joined}" if len(self.steps) > 1 else f"M0 {down[0]:.1f}L{width:.1f} {down[0]:.1f}"

    def in_words(self) -> str:
        """The same for somebody who does not see it."""
        line = f"; {self.line_name} is {figure(self.line)}" if self.line is not None else ""
        over = f"over steps {self.steps[0]:,.0f} to {self.steps[-1]:,.0f}"
        return f"{self.title}: from {figure(self.values[0])} to {figure(self.values[-1])} {over}{line}"


_KINDS: tuple[tuple[str, str, str], ...] = (
    ("train/loss", "Loss", "Falls below ln K, the loss of a network that tells nothing."),
    ("collapse/code_entropy", "Code entropy / ln K", "Well below 1, and falling; 1 means that every code is uniform."),
    ("cluster/nmi_previous", "Clusters beside those before", "Normalized mutual information of two clusterings; rises as they settle."),
    ("collapse/mean_embedding", "Length of the mean embedding, squared", "Falls; 1 means that all images have one embedding."),
    ("collapse/prototypes_used", "Prototypes in use", "Perplexity of the nearest prototype; most of K is good."),
    ("collapse/rankme", "Effective rank of the features", "RankMe; tens and more is good, near 1 is a collapse."),
    ("cluster/largest_share", "Share of the largest cluster", "Small; near 1 means that one cluster takes all."),
    ("train/lr", "Learning rate", "As scheduled."),
    ("train/images_per_second", "Images a second", "Even, unless the machine was shared."),
    ("train/data_wait", "Share of time that waits for images", "Near 0; much more asks for more workers."),
)


def curves(rows: Rows, config: Config[Any]) -> list[Curve]:
    """A curve for each metric that the run has."""
    lines = {
        "train/loss": (ln_k(config.n_prototypes), "ln K"),
        "collapse/prototypes_used": (float(config.n_prototypes[0]), "K"),
        "collapse/code_entropy": (1.0, "ln K"),
    }
    drawn = []
    for name, title, says in _KINDS:
        steps, values = thinned(*series(rows, name))
        if values:
            line, line_name = lines.get(name, (None, ""))
            drawn.append(Curve(title, says, tuple(steps), tuple(values), line, line_name))
    return drawn


def thinned(steps: Sequence[float], values: Sequence[float], most: int = _MOST_POINTS) -> tuple[list[float], list[float]]:
    """The means of at most so many groups of neighbors; the last step stays the last."""
    size = math.ceil(len(values) / most) or 1
    groups = [slice(start, start + size) for start in range(0, len(values), size)]
    return [steps[g][-1] for g in groups], [sum(values[g]) / len(values[g]) for g in groups]
