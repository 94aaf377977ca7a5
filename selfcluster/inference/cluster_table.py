"""The table of clusters: one row per image, in memory and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray

from selfcluster.data.dataset import Data
from selfcluster.data.readers.labels import names_of
from selfcluster.errors import CheckpointError
from selfcluster.formatting import command
from selfcluster.runs.atomic import write_atomically
from selfcluster.spreadsheets import with_texts_neutralized

GUESSED = "selfcluster.guessed"
"""Key in the metadata of a table whose clusters did not stand out, so that their number is a guess."""
TABLE = "clusters.parquet"
"""Name of the file in a run's folder."""


def cluster_table(
    data: Data,
    readable: Int64[np.ndarray, " r"],
    clusters: Int64[np.ndarray, " r"],
    names: tuple[str, ...],
    centroids: Int64[np.ndarray, " r"],
    distances: Float[np.ndarray, " r"],
    margins: Float[np.ndarray, " r"],
    is_outlier: Bool[np.ndarray, " r"],
    **more: NDArray | None,
) -> pa.Table:
    """Return one row for each image, in the order of the data; see `Clusters.table`.

    Args:
        data: the images.
        readable: index of each image that has a cluster; the other arguments have a row for each.
        clusters: number of its cluster.
        names: name of each cluster, "" if it has none.
        centroids: its nearest centroid.
        distances: 1 - cosine with the mean of its cluster.
        margins: see `nearest_centroids`.
        is_outlier: see `outliers`.
        more: further columns by name, of truth values, numbers or texts; a whole number below 0 is missing. None for truth values that are
            all missing.
    """
    n = len(data.images)

    def column(values: np.ndarray, missing: float | None) -> np.ndarray:
        whole = np.full(n, missing, dtype=values.dtype)
        whole[readable] = values
        return whole

    order, sizes = np.lexsort((distances, clusters)), np.bincount(clusters)
    ranks = np.empty(len(clusters), dtype=np.int32)
    ranks[order] = np.arange(len(clusters)) - (sizes.cumsum() - sizes)[clusters[order]]
    name = np.array([name or None for name in names], dtype=object)[clusters]
    columns: dict[str, Any] = {
        "path": data.images.paths(),
        "index": np.arange(n),
        "cluster": column(clusters.astype(np.int32), -1),
        "name": pa.array(column(name, None), type=pa.string()),
        "centroid": column(centroids.astype(np.int32), -1),
        "distance": column(distances, np.nan),
        "margin": column(margins, np.nan),
        "rank_in_cluster": column(ranks, -1),
        "is_outlier": column(is_outlier, False),
    }
    for key, values in more.items():
        if values is None:
            columns[key] = pa.nulls(n, pa.bool_())
        elif values.dtype == bool:
            columns[key] = column(values, False)
        elif values.dtype == object:
            columns[key] = pa.array(column(values, None), type=pa.string())
        elif np.issubdtype(values.dtype, np.integer):
            whole = column(values, -1)
            columns[key] = pa.array(whole, mask=whole < 0)
        else:
            columns[key] = column(values, np.nan)
    labels = names_of(data.images.labels)
    return pa.table(columns if labels is None else {**columns, "label": labels})


def write_table(table: pa.Table, file: Path) -> None:
    """Write the table atomically, as parquet or CSV by the file's ending."""
    sink = pa.BufferOutputStream()
    if file.suffix == ".csv":
        pa.csv.write_csv(with_texts_neutralized(table), sink)
    else:
        pq.write_table(table, sink, compression="zstd")
    write_atomically(file, sink.getvalue().to_pybytes())


def saved_table(folder: Path) -> pa.Table:
    """Return the table in a run's folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    file = folder / TABLE
    if not file.is_file():
        raise CheckpointError(f"{str(folder)!r} contains no clusters; run {command('cluster', folder)} first")
    try:
        return read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise CheckpointError(
            f"cannot read {str(file)!r}: {' '.join(str(error).split())}; run {command('cluster', folder)} again"
        ) from None


def read_table(file: Path) -> pa.Table:
    """Read a table that `write_table` wrote as parquet."""
    table = pq.read_table(file)
    # Older versions called the column `far`.
    return table.rename_columns(["is_outlier" if name == "far" else name for name in table.column_names])
