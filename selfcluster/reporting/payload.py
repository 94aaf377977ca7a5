"""Data for the script of the page: clusters and lists as JSON, one number per image as packed columns, thumbnails as sheets.

An image on the page is a *point*; points are numbered in the order of the data. A column has one value per point, in as few bytes as
possible; coordinates, distances and margins are rounded to 16 bits, which is finer than any screen.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from selfcluster.clustering.neighbors import nearest_neighbors
from selfcluster.reporting.copies import Json, copy_groups
from selfcluster.reporting.galleries import ClusterGallery, sample_rows
from selfcluster.reporting.page import Page
from selfcluster.reporting.thumbnails import Sheets, cut_tiles, make_sheets, small_side
from selfcluster.reporting.tree import tree_figures

_MAX_COPY_GROUPS, _MAX_COPIES = 500, 12
"""Groups of copies on the page, and images of each."""

_MAX_LEAVES = 512
"""Leaves of a tree that the page can cut: it contains a product for every two of them."""

_COLUMNS = {"small": 64, "large": 16}
"""Thumbnails in a row of a sheet. A browser decodes a whole sheet at a time, so a sheet has fewer of the large ones."""


@dataclass(frozen=True)
class Payload:
    """Data for the script, and counts for the text of the page."""

    data: Json
    sheets: dict[str, Sheets]
    """Thumbnails by size: small for every point, and large for some, unless the images themselves are small."""
    n_points: int
    n_copy_groups: int
    """Groups of copies, including those that are not shown."""
    n_outliers: int
    n_odd: int
    """Odd images that are no outliers."""
    n_unreadable: int
    """Images that could be read when they were clustered, but not now."""


def build_payload(page: Page, clusters: list[ClusterGallery]) -> Payload:
    """Return the data for the script.

    Args:
        page: inputs of the page.
        clusters: galleries of the clusters.
    """
    prototypes = page.prototypes.galleries if page.prototypes else ()
    gallery_rows = [row for c in clusters for row in c.rows] + [row for p in prototypes for row in p.rows]
    readable = np.flatnonzero(page.table["cluster"].to_numpy() >= 0)
    rows = sample_rows(readable, gallery_rows, n_points=page.limits.n_points, seed=page.limits.seed)
    shown = page.table.take(pa.array(rows))
    point = {int(row): i for i, row in enumerate(rows)}
    sheets, large_place, n_unreadable = _thumbnails(page, shown, [point[row] for row in gallery_rows])
    # Images that could be read when they were clustered, but not now, must not be neighbors.
    neighbors, _ = nearest_neighbors(torch.from_numpy(page.features[rows]).nan_to_num(), page.limits.n_neighbors)
    pixel_neighbors = _by_pixels(page, rows)
    copies, n_copy_groups = copy_groups(page.images, shown, n_groups=_MAX_COPY_GROUPS, n_each=_MAX_COPIES, threads=page.threads)
    is_outlier, is_odd = (_flags(shown, name) for name in ("is_outlier", "is_odd"))

    # Another clustering of the run has another key, so that names given to clusters are not mixed up.
    key = hashlib.sha256(f"{page.name} {page.environment.started}".encode("utf-8", "backslashreplace"))
    key.update(page.table["cluster"].to_numpy().tobytes())
    data: Json = {
        "name": page.name,
        "key": key.hexdigest()[:16],
        "sheets": {size: {"side": s.side, "columns": s.columns, "n": len(s.files)} for size, s in sheets.items()},
        "clusters": [
            {
                "number": c.number,
                "name": c.name,
                "size": c.size,
                "cohesion": round(c.cohesion, 4),
                "label": c.label,
                "share": round(c.label_share, 4),
                "similar": c.similar,
                "typical": [point[row] for row in c.typical],
                "border": [point[row] for row in c.border],
                "least_typical": [point[row] for row in c.least_typical],
            }
            for c in clusters
        ],
        "prototypes": [{"number": p.prototype, "n": p.n_nearest, "points": [point[row] for row in p.rows]} for p in prototypes],
        "copies": copies,
        "tree": _tree(page, rows),
        "originals": page.originals,
        "pixel_neighbors": pixel_neighbors,
        "is_outlier": packed(is_outlier.astype(np.uint8)),
        "is_odd": packed(is_odd.astype(np.uint8)),
        **_columns(shown, clusters, neighbors.numpy(), large_place),
    }
    n_odd = int((is_odd & ~is_outlier).sum())
    return Payload(data, sheets, len(rows), n_copy_groups, int(is_outlier.sum()), n_odd, n_unreadable)


def _tree(page: Page, rows: NDArray[np.int64]) -> Json | None:
    """Return the nodes, and the leaf of each point with its distance from the leaf's mean direction; None if the page cannot cut the tree."""
    if page.tree is None or page.tree.n_leaves > _MAX_LEAVES:
        return None
    tree, table = tree_figures(page.tree, page.table, page.features), page.table
    return {
        "merges": packed(tree.merges.reshape(-1)),
        "given": tree.given.tolist(),
        "sizes": tree.sizes.tolist(),
        "cohesion": tree.cohesion.round(4).tolist(),
        "labels": tree.labels,
        "shares": tree.label_shares.round(4).tolist(),
        "products": scaled(tree.products.reshape(-1)),
        "leaf": packed(table["centroid"].to_numpy()[rows]),
        "directions": base64.b64encode(tree.directions[rows].tobytes()).decode(),
        "n_directions": tree.directions.shape[1],
    }


def _by_pixels(page: Page, rows: NDArray[np.int64]) -> Json | None:
    """Return the nearest neighbors of each point by a few centered pixels; None where the page has none."""
    if page.looks is None:
        return None
    looks = torch.from_numpy(page.looks[rows]).nan_to_num()
    neighbors, _ = nearest_neighbors(looks - looks.mean(dim=0), page.limits.n_neighbors)
    return {**packed(neighbors.numpy().reshape(-1)), "each": neighbors.shape[1]}


def _thumbnails(page: Page, shown: pa.Table, first: Sequence[int]) -> tuple[dict[str, Sheets], NDArray[np.int64], int]:
    """Return the sheets, the place of each point's large thumbnail (-1 for none), and the number of images that cannot be read.

    Args:
        page: inputs of the page.
        shown: rows of the table that are points.
        first: points that get a large thumbnail first, before the most typical of the others; a gallery's stay next to each other.
    """
    side, large_side = small_side(shown.num_rows), page.limits.large_pixels
    if page.images.in_memory:  # images are not enlarged
        large_side = min(large_side, *page.images.decoded_size(0))
    by_rank = np.argsort(shown["rank_in_cluster"].to_numpy(), kind="stable").tolist()
    large = list(dict.fromkeys([*first, *by_rank]))[: page.limits.n_large] if large_side > side else []
    large_place = np.full(shown.num_rows, -1, dtype=np.int64)
    large_place[large] = np.arange(len(large))
    index = shown["index"].to_numpy().astype(np.int64)
    tiles = cut_tiles(page.images, index, large_place, side=side, large_side=max(side, large_side), threads=page.threads)
    sheets = {"small": make_sheets(tiles.small, columns=_COLUMNS["small"], size="small", threads=page.threads)}
    if large:
        sheets["large"] = make_sheets(tiles.large, columns=_COLUMNS["large"], size="large", threads=page.threads)
    return sheets, large_place, tiles.n_unreadable


def _columns(shown: pa.Table, clusters: list[ClusterGallery], neighbors: NDArray[np.int64], large_place: NDArray[np.int64]) -> Json:
    shared, suffixes = front_coded(shown["path"].to_pylist())
    place = {c.number: i for i, c in enumerate(clusters)}
    x, y = shown["x"].to_numpy().astype(np.float64), shown["y"].to_numpy().astype(np.float64)
    extent = max(np.ptp(x), np.ptp(y), 1e-12)  # of both axes, so that the map keeps its shape
    columns: Json = {
        "paths": suffixes,
        "shared": packed(np.array(shared)),
        "index": packed(shown["index"].to_numpy()),
        "cluster": packed(np.array([place[number] for number in shown["cluster"].to_pylist()])),
        "x": packed(np.round(65535 * ((x - (x.min() + x.max()) / 2) / extent + 0.5))),
        "y": packed(np.round(65535 * ((y - (y.min() + y.max()) / 2) / extent + 0.5))),
        "distance": scaled(shown["distance"].to_numpy()),
        "margin": scaled(shown["margin"].to_numpy()),
        "neighbors": {**packed(neighbors.reshape(-1)), "each": neighbors.shape[1]},
        "large": packed(large_place + 1),  # unsigned: 0 for none
    }
    if "label" in shown.column_names:
        labels = pc.dictionary_encode(shown["label"]).combine_chunks()
        columns["labels"] = labels.dictionary.to_pylist()
        columns["label"] = packed(pc.fill_null(pc.add(labels.indices, 1), 0).to_numpy())
    return columns


def _flags(table: pa.Table, name: str) -> NDArray[np.bool_]:
    """Return truth values; a table of an older version may lack them."""
    known = pc.fill_null(table[name], False).to_numpy() if name in table.column_names else np.zeros(table.num_rows)
    return known.astype(bool)


def front_coded(texts: Sequence[str]) -> tuple[list[int], list[str]]:
    """Return the number of leading UTF-16 units that each text shares with the previous one, and the rest of it.

    Paths of one folder repeat its name, so this saves space.
    """
    shared, rest, previous = [], [], ""
    for text in texts:
        n = min(len(os.path.commonprefix([previous, text])), 0xFFFF)  # noqa: RUF071 - characters are meant, not folders
        shared.append(len(text[:n].encode("utf-16-le", "surrogatepass")) // 2)
        rest.append(text[n:])
        previous = text
    return shared, rest


def packed(values: NDArray) -> Json:
    """Return whole numbers from 0 in the fewest bytes, little-endian, as base64."""
    kind = np.min_scalar_type(int(values.max(initial=0)))
    return {"kind": f"u{kind.itemsize}", "base64": base64.b64encode(values.astype(kind.newbyteorder("<")).tobytes()).decode()}


def scaled(values: NDArray) -> Json:
    """Return fractions in 16 bits, with the step and the offset that restore them."""
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, extent = float(values.min()), float(np.ptp(values))
    whole = np.round((values - low) / extent * 65535) if extent else np.zeros_like(values)
    return {**packed(whole), "low": low, "step": extent / 65535}
