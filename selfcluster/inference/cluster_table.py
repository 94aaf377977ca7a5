"""The table of clusters: one row per image, in memory and as a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from selfcluster.data.dataset import Data
from selfcluster.data.readers.labels import names_of
from selfcluster.runs.atomic import write_atomically


def cluster_table(
    data: Data,
    readable: Int64[NDArray[np.int64], " r"],
    assignments: Int64[Tensor, " r"],
    distances: Float[Tensor, " r"],
    margins: Float[Tensor, " r"],
    is_outlier: Bool[Tensor, " r"],
    *,
    places: Float[NDArray[np.float32], "r 2"] | None = None,
    duplicate_of: Int64[NDArray[np.int64], " r"] | None = None,
) -> pa.Table:
    """Return one row for each image, in the order of the data; see `Clusters.table`.

    Args:
        data: the images.
        readable: index of each image that has a cluster; the other arguments have a row for each.
        assignments, distances, margins: as from `nearest_two`.
        is_outlier: see `outliers`.
        places: position on the map.
        duplicate_of: row of the first copy, or -1.
    """
    n, clusters = len(data.images), assignments.numpy()

    def column(values: np.ndarray, missing: float) -> np.ndarray:
        whole = np.full(n, missing, dtype=values.dtype)
        whole[readable] = values
        return whole

    order, sizes = np.lexsort((distances.numpy(), clusters)), np.bincount(clusters)
    ranks = np.empty(len(clusters), dtype=np.int32)
    ranks[order] = np.arange(len(clusters)) - (sizes.cumsum() - sizes)[clusters[order]]
    columns = {
        "path": data.images.paths(),
        "index": np.arange(n),
        "cluster": column(clusters.astype(np.int32), -1),
        "distance": column(distances.numpy(), np.nan),
        "margin": column(margins.numpy(), np.nan),
        "rank_in_cluster": column(ranks, -1),
    }
    if places is not None:
        columns |= {"x": column(places[:, 0], np.nan), "y": column(places[:, 1], np.nan)}
    columns["is_outlier"] = column(is_outlier.numpy(), False)
    if duplicate_of is not None:
        first = column(np.where(duplicate_of >= 0, readable[duplicate_of], -1), -1)
        columns["duplicate_of"] = pa.array(first, mask=first < 0)
    labels = names_of(data.images.labels)
    return pa.table(columns if labels is None else {**columns, "label": labels})


def write_table(table: pa.Table, file: Path) -> None:
    """Write the table atomically, as parquet or CSV by the file's ending."""
    sink = pa.BufferOutputStream()
    if file.suffix == ".csv":
        pa.csv.write_csv(table, sink)
    else:
        pq.write_table(table, sink, compression="zstd")
    write_atomically(file, sink.getvalue().to_pybytes())


def read_table(file: Path) -> pa.Table:
    """Read a table that `write_table` wrote as parquet."""
    table = pq.read_table(file)
    # Older versions called the column `far`.
    return table.rename_columns(["is_outlier" if name == "far" else name for name in table.column_names])
