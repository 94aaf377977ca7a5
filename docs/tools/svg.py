"""SVG, as far as the drawings of the docs need it: shapes, texts, arrows and line charts on a white sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

INK, GRAY, LIGHT = "#1f2933", "#667480", "#dde3e9"
BLUE, ORANGE = "#2563a8", "#c2541b"
COLORS = (BLUE, ORANGE, "#2f7d4f", "#8a4fa3", "#b8860b", "#c0396b", "#3a8fa3", "#6b6b2f")

Point = tuple[float, float]


class Drawing:
    """A drawing of a width and a height in pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="{INK}">',
            f"<title>{escape(title)}</title>",
            f'<defs>{"".join(_head(color) for color in (INK, BLUE, ORANGE))}</defs><rect width="{width}" height="{height}" rx="6" fill="#fff"/>',
        ]

    def text(self, x: float, y: float, text: str, *, anchor: str = "middle", color: str = INK, size: int = 13, bold: bool = False) -> None:
        """Write a line of text, whose baseline is at y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{color}" font-size="{size}"{weight}>{escape(text)}</text>'
        )

    def box(self, x: float, y: float, width: float, height: float, *lines: str, fill: str = "#f3f6f9", stroke: str = GRAY) -> None:
        """Draw a box with lines of text; the first is bold."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" fill="{fill}" stroke="{stroke}"/>')
        first = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
        for i, line in enumerate(lines):
            self.text(x + width / 2, first + 17 * i, line, bold=i == 0, size=13 if i == 0 else 12)

    def cell(self, x: float, y: float, width: float, height: float, share: float, text: str) -> None:
        """Draw a cell of a matrix, the darker the larger its share in [0, 1]."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{BLUE}" fill-opacity="{share:.2f}"/>')
        self.text(x + width / 2, y + height / 2 + 4, text, size=11, color="#fff" if share > 0.55 else INK)

    def arrow(self, *points: Point, color: str = INK, dashed: bool = False) -> None:
        """Draw an arrow along these points."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<path d="{_path(points)}" fill="none" stroke="{color}" stroke-width="1.4"{dash} marker-end="url(#{color[1:]})"/>'
        )

    def line(self, *points: Point, color: str = GRAY, width: float = 1.0) -> None:
        """Draw a line along these points."""
        self.parts.append(f'<path d="{_path(points)}" fill="none" stroke="{color}" stroke-width="{width:g}"/>')

    def dot(self, x: float, y: float, radius: float, color: str, stroke: str = "none") -> None:
        """Draw a filled circle."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{color}" stroke="{stroke}"/>')

    def chart(
        self,
        corner: Point,
        size: Point,
        lines: dict[str, Sequence[Point]],
        *,
        title: str,
        x_title: str,
        x_ticks: Sequence[float],
        y_ticks: Sequence[float],
        log: bool = False,
        dots: bool = False,
        names_at: float = 0.0,
    ) -> None:
        """Draw a line chart, whose axes go from the first tick to the last one.

        Args:
            corner: upper left corner of the frame.
            size: width and height of the frame.
            lines: points of each line by its name.
            title: what the vertical axis shows, with its unit.
            x_title: what the horizontal axis shows.
            x_ticks: numbers on the horizontal axis.
            y_ticks: numbers on the vertical axis.
            log: whether both axes are logarithmic.
            dots: whether the points are marked.
            names_at: where the names of the lines stand, as a share of the height.
        """
        (left, top), (width, height) = corner, size

        def at(value: float, ticks: Sequence[float], extent: float) -> float:
            low, high, value = (math.log(v) if log else v for v in (ticks[0], ticks[-1], value))
            return extent * (value - low) / (high - low)

        def place(x: float, y: float) -> Point:
            return left + at(x, x_ticks, width), top + height - at(y, y_ticks, height)

        for y in y_ticks:
            self.line(place(x_ticks[0], y), place(x_ticks[-1], y), color=LIGHT)
            self.text(left - 6, place(x_ticks[0], y)[1] + 4, f"{y:,.9g}", anchor="end", size=11, color=GRAY)
        for x in x_ticks:
            self.text(place(x, y_ticks[0])[0], top + height + 16, f"{x:,.9g}", size=11, color=GRAY)
        self.text(left, top - 10, title, anchor="start", bold=True)
        self.text(left + width / 2, top + height + 34, x_title, size=12, color=GRAY)
        for i, (name, points) in enumerate(lines.items()):
            placed = [place(*point) for point in points]
            self.line(*placed, color=COLORS[i], width=2)
            for x, y in placed if dots else ():
                self.dot(x, y, 3, COLORS[i])
            if len(lines) > 1:
                self.text(left + width - 4, top + 16 + names_at * height + 17 * i, name, anchor="end", color=COLORS[i])

    def save(self, file: Path) -> None:
        """Write the file."""
        file.write_text("\n".join([*self.parts, "</svg>", ""]))


def _path(points: Sequence[Point]) -> str:
    return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _head(color: str) -> str:
    shape = f'<path d="M0 0 L8 4 L0 8 z" fill="{color}"/>'
    return f'<marker id="{color[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">{shape}</marker>'
