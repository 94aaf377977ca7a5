"""What the script of the page is given: clusters and lists as JSON, a number for each image as packed columns, pictures as sheets.

An image on the page is a *point*; points are numbered in the order of the data. Columns hold a value for each point in the fewest
bytes that serve; coordinates, distances and margins are brought to 16 bits, which is finer than any screen.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from selfcluster.clustering.neighbors import nearest_neighbors
from selfcluster.reporting.galleries import Cluster, rows_on_page
from selfcluster.reporting.page import Page
from selfcluster.reporting.thumbnails import Sheets, cut_tiles, sheets, small_side

_DUPLICATES = 60
"""Groups of near-duplicates that are shown, the largest first."""

_COLUMNS = {"small": 64, "large": 16}
"""Thumbnails in a row of a sheet. A browser decodes a sheet whole, so that of the larger ones fewer stand together."""


@dataclass(frozen=True)
class Content:
    """What is behind the page."""

    data: dict[str, Any]
    """For the script."""
    sheets: dict[str, Sheets]
    """By size: small for every point, and large for some of them, where these are larger at all."""
    n_points: int
    n_duplicates: int
    """Groups of near-duplicates."""
    n_unreadable: int
    """Images that could be read when they were clustered, but not now."""


def content_of(page: Page, clusters: list[Cluster]) -> Content:
    """All that the script needs to know, and the pictures."""
    table, limits = page.table, page.limits
    tops = page.prototypes.shown if page.prototypes else ()
    of_prototypes = np.array([row for top in tops for row in top.rows], dtype=np.int64)
    readable = np.flatnonzero(table["cluster"].to_numpy() >= 0)
    rows = rows_on_page(clusters, of_prototypes, readable, most=limits.points, seed=limits.seed)
    shown = table.take(pa.array(rows))
    point = {int(row): i for i, row in enumerate(rows)}
    neighbors, _ = nearest_neighbors(torch.from_numpy(page.features[rows]), limits.neighbors)

    side = small_side(len(rows))
    large_side = _large_side(page, side)
    galleries = [row for c in clusters for row in (*c.typical, *c.border, *c.outliers)]
    place = _large_places(shown, [point[row] for row in [*galleries, *of_prototypes.tolist()]], limits.large if large_side > side else 0)
    index = shown["index"].to_numpy().astype(np.int64)
    tiles = cut_tiles(page.images, index, place, side=side, large_side=large_side, threads=page.threads)
    duplicates = _duplicates(shown)
    pictures = {"small": sheets(tiles.small, columns=_COLUMNS["small"], size="small")}
    if len(tiles.large):
        pictures["large"] = sheets(tiles.large, columns=_COLUMNS["large"], size="large")

    def points(of: Iterable[int]) -> list[int]:
        return [point[row] for row in of]

    data = {
        "name": page.name,
        "key": _key(page),
        "sheets": {name: {"side": s.side, "columns": s.columns, "n": len(s.files)} for name, s in pictures.items()},
        "clusters": [
            {
                "number": c.number,
                "size": c.size,
                "cohesion": round(c.cohesion, 4),
                "label": c.label,
                "share": round(c.label_share, 4),
                "similar": c.similar,
                "typical": points(c.typical),
                "border": points(c.border),
                "outliers": points(c.outliers),
            }
            for c in clusters
        ],
        "prototypes": [{"number": top.prototype, "n": top.n_nearest, "points": points(top.rows)} for top in tops],
        "duplicates": duplicates[:_DUPLICATES],
        **_columns(shown, clusters, neighbors.numpy(), place),
    }
    return Content(data, pictures, len(rows), len(duplicates), tiles.n_unreadable)


def _columns(shown: pa.Table, clusters: list[Cluster], neighbors: NDArray[np.int64], large_place: NDArray[np.int64]) -> dict[str, Any]:
    """A value for each point."""
    shared, suffixes = front_coded(shown["path"].to_pylist())
    place = {c.number: i for i, c in enumerate(clusters)}
    x, y = shown["x"].to_numpy().astype(np.float64), shown["y"].to_numpy().astype(np.float64)
    # One scale for both axes, so that the map keeps its shape.
    extent = max(np.ptp(x), np.ptp(y), 1e-12)
    columns: dict[str, Any] = {
        "paths": suffixes,
        "shared": packed(np.array(shared)),
        "index": packed(shown["index"].to_numpy()),
        "cluster": packed(np.array([place[number] for number in shown["cluster"].to_pylist()])),
        "x": packed(np.round(65535 * ((x - (x.min() + x.max()) / 2) / extent + 0.5))),
        "y": packed(np.round(65535 * ((y - (y.min() + y.max()) / 2) / extent + 0.5))),
        "distance": scaled(shown["distance"].to_numpy()),
        "margin": scaled(shown["margin"].to_numpy()),
        "is_outlier": packed(shown["is_outlier"].to_numpy().astype(np.uint8)),
        "neighbors": {**packed(neighbors.reshape(-1)), "each": neighbors.shape[1]},
        # Zero is for none, so that the column stays unsigned.
        "large": packed(large_place + 1),
    }
    if "label" in shown.column_names:
        labels = pc.dictionary_encode(shown["label"]).combine_chunks()
        columns["labels"] = labels.dictionary.to_pylist()
        columns["label"] = packed(pc.fill_null(pc.add(labels.indices, 1), 0).to_numpy())
    return columns


def _duplicates(shown: pa.Table) -> list[list[int]]:
    """Groups of points that are one picture, the largest first."""
    index, first = shown["index"].to_numpy(), shown["duplicate_of"].to_pylist()
    groups: dict[int, list[int]] = {}
    for point, (own, other) in enumerate(zip(index.tolist(), first, strict=True)):
        groups.setdefault(own if other is None else other, []).append(point)
    return sorted((group for group in groups.values() if len(group) > 1), key=lambda group: -len(group))


def _large_side(page: Page, small: int) -> int:
    """Side of the larger thumbnails; images that are smaller themselves are not enlarged."""
    if not page.images.in_memory:
        return page.limits.large_pixels
    height, width = page.images.decoded_size(0)
    return max(small, min(page.limits.large_pixels, height, width))


def _large_places(shown: pa.Table, first: Sequence[int], most: int) -> NDArray[np.int64]:
    """For each point the place of its large thumbnail, or -1; those of one gallery stand together, and then the most typical of the others."""
    by_rank = np.argsort(shown["rank_in_cluster"].to_numpy(), kind="stable").tolist()
    ordered = list(dict.fromkeys([*first, *by_rank]))[:most]
    place = np.full(shown.num_rows, -1, dtype=np.int64)
    place[ordered] = np.arange(len(ordered))
    return place


def _key(page: Page) -> str:
    """Names that are given to clusters are kept under this; another clustering of the same run has another."""
    digest = hashlib.sha256(f"{page.name} {page.environment.get('started', '')}".encode("utf-8", "backslashreplace"))
    digest.update(page.table["cluster"].to_numpy().tobytes())
    return digest.hexdigest()[:16]


def front_coded(texts: Sequence[str]) -> tuple[list[int], list[str]]:
    """How many leading UTF-16 units each text shares with the one before, and the rest of it: paths of one folder repeat it."""
    shared, rest, before = [], [], ""
    for text in texts:
        n = next((i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), min(len(before), len(text)))
        n = min(n, 0xFFFF)
        shared.append(len(text[:n].encode("utf-16-le", "surrogatepass")) // 2)
        rest.append(text[n:])
        before = text
    return shared, rest


def packed(values: NDArray) -> dict[str, Any]:
    """Whole numbers from 0 in the fewest bytes, little-endian, as base64."""
    largest = int(values.max()) if len(values) else 0
    kind = next(kind for kind in ("u1", "u2", "u4") if largest < 2 ** (8 * int(kind[1])))
    return {"kind": kind, "base64": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode()}


def scaled(values: NDArray) -> dict[str, Any]:
    """Fractions in 16 bits, with what they are to be multiplied by and moved by."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, extent = float(values.min()), float(np.ptp(values))
    whole = np.round((values - low) / extent * 65535) if extent else np.zeros_like(values)
    return {**packed(whole), "low": low, "step": extent / 65535}


def as_json(value: Any) -> str:
    """JSON that may stand inside <script>: it holds no <, >, & and no line end of JavaScript's own."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
