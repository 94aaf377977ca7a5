"""The first lines of the page: what is there, in a sentence."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from selfcluster.evaluation.trust import Trust
from selfcluster.formatting import n_images
from selfcluster.inference.cluster_table import GUESSED
from selfcluster.reporting.verdict import what_clusters_follow


def title(n: int, n_clusters: int) -> tuple[str, str]:
    """Return the two parts of the title of the page: how many images, in how many clusters."""
    return n_images(n), f"{n_clusters:,} cluster{'' if n_clusters == 1 else 's'}"


def summary(table: pa.Table, trust: Trust | None) -> str:
    """Return how many images are copies, outliers or odd, and what clusters follow.

    Args:
        table: as for `Page`.
        trust: as for `Page`.
    """
    copies, outliers, odd = len(table) - table["duplicate_of"].null_count, _n(table, "is_outlier"), _n(table, "is_odd")
    counts = [
        f"{copies:,} cop{'y' if copies == 1 else 'ies'}" if copies else "no copies",
        f"{outliers:,} outlier{'' if outliers == 1 else 's'}" if outliers else "no outliers",
        *([f"{odd:,} odd one{'' if odd == 1 else 's'} between groups"] if odd else []),
    ]
    sentence = f"{', '.join(counts[:-1])} and {counts[-1]}."
    if GUESSED.encode() in (table.schema.metadata or {}):
        sentence += " No clusters stand out, so their number is a guess; make them coarser or finer."
    follows = f" Clusters follow {what_clusters_follow(trust)}." if trust is not None else ""
    return sentence[0].upper() + sentence[1:] + follows


def _n(table: pa.Table, flag: str) -> int:
    """Return the number of rows with a flag; a table of an older version may lack it."""
    return pc.sum(pc.fill_null(table[flag], False)).as_py() or 0 if flag in table.column_names else 0
