"""Clusters as text, for the command line."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selfcluster.formatting import n_images
from selfcluster.formatting import table as tabulated
from selfcluster.inference.clusters import Clusters

_N_SHOWN = 12
"""Clusters that are listed, largest first."""


def figures_of(table: pa.Table) -> dict[str, int | None]:
    """Return the number of images and clusters in a table, and of copies, outliers, odd and unreadable images; None for what it does not say."""
    clusters = table["cluster"].to_numpy()
    return {
        "images": len(table),
        "clusters": len(np.unique(clusters[clusters >= 0])),
        "copies": len(table) - table["duplicate_of"].null_count if "duplicate_of" in table.column_names else None,
        "outliers": pc.sum(table["is_outlier"]).as_py(),
        "odd": pc.sum(table["is_odd"]).as_py() if "is_odd" in table.column_names else None,
        "unreadable": int((clusters < 0).sum()),
    }


def describe(found: Clusters) -> str:
    """Describe clusters: sizes, cohesion, nearest clusters, copies and outliers."""
    table, typical = found.table, _most_typical(found.table)
    by = "embeddings" if found.centroids.layer == "head" else "features"
    n_empty = found.centroids.n_clusters - len(found.summaries)
    lines = [f"{n_images(len(table))} in {len(found.summaries):,} clusters, by {by}" + (f" ({n_empty} more are empty)" if n_empty else "")]
    rows = [["cluster", "images", "cohesion", "nearest", "most typical", "name"]]
    for s in found.summaries[:_N_SHOWN]:
        rows.append([str(s.cluster), f"{s.size:,}", f"{s.cohesion:.3f}", " ".join(map(str, s.nearest)), typical[s.cluster], s.name])
    lines.append(tabulated(_without_empty_names(rows), right=(0, 1, 2)))
    if len(found.summaries) > _N_SHOWN:
        lines.append(f"... and {len(found.summaries) - _N_SHOWN:,} smaller ones")
    kinds = Counter(table["copy"].drop_null().to_pylist())
    named = f" ({', '.join(f'{n:,} {kind}' for kind, n in kinds.most_common())})" if kinds else ""
    odd = f"; odd (between groups): {pc.sum(table['is_odd']).as_py():,}" if not table["is_odd"].null_count else ""
    lines.append(f"copies of other images: {kinds.total():,}{named}; outliers: {pc.sum(table['is_outlier']).as_py():,}{odd}")
    if n_unreadable := pc.sum(pc.equal(table["cluster"], -1)).as_py():
        lines.append(f"{n_unreadable:,} images cannot be read (cluster -1)")
    return "\n".join(lines)


def describe_assigned(table: pa.Table) -> str:
    """Describe new images in clusters: the largest clusters, and the number of outliers."""
    clusters, typical = table["cluster"].to_numpy(), _most_typical(table)
    sizes = np.bincount(clusters[clusters >= 0])
    largest = [c for c in np.argsort(-sizes, kind="stable").tolist() if sizes[c]][:_N_SHOWN]
    names = dict(zip(clusters.tolist(), table["name"].to_pylist(), strict=True))
    rows = [["cluster", "images", "most typical", "name"], *([str(c), f"{sizes[c]:,}", typical[c], names[c] or ""] for c in largest)]
    n_used = int((sizes > 0).sum())
    lines = [
        f"{n_images(len(table))} in {n_used:,} cluster{'' if n_used == 1 else 's'}",
        tabulated(_without_empty_names(rows), right=(0, 1)),
    ]
    if n_used > _N_SHOWN:
        lines.append(f"... and {n_used - _N_SHOWN:,} smaller ones")
    n_outliers, n_unreadable = pc.sum(table["is_outlier"]).as_py(), int((clusters < 0).sum())
    lines.append(f"outliers: {n_outliers:,} ({n_outliers / max(1, len(table)):.1%}; of the images that were clustered, 1 % are)")
    if n_unreadable:
        lines.append(f"{n_unreadable:,} images cannot be read (cluster -1)")
    return "\n".join(lines)


def _without_empty_names(rows: list[list[str]]) -> list[list[str]]:
    """Leave out the last column if no cluster has a name."""
    return rows if any(row[-1] for row in rows[1:]) else [row[:-1] for row in rows]


def _most_typical(table: pa.Table) -> dict[int, str]:
    first = table.filter(pc.equal(table["rank_in_cluster"], 0))
    return dict(zip(first["cluster"].to_pylist(), first["path"].to_pylist(), strict=True))
