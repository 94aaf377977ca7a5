"""Names of clusters, as they come back from the page or a spreadsheet: renamed, merged and split clusters.

Two forms of CSV are read. `cluster,name` names whole clusters; clusters of the same name are merged. `path,cluster,name` says it for each
image, so that it can also split clusters: images of one name belong together, and images without a name by their cluster number.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from selfcluster.distributed import logger
from selfcluster.errors import DataError
from selfcluster.runs.atomic import write_atomically
from selfcluster.spreadsheets import neutralized, restored

_NOT_IN_FOLDERS = re.compile(r'[/\\:*?"<>|\x00-\x1f\x7f]')
_LONGEST = 100
"""Characters in a name."""

_Key = tuple[str, int]
"""A name and -1, or "" and the number of a cluster without a name."""


@dataclass(frozen=True)
class Partition:
    """Images in named groups."""

    groups: Int64[np.ndarray, " n"]
    """Group of each image; -1 for an unreadable one."""
    names: tuple[str, ...]
    """Name of each group, "" if it has none."""


def write_names(table: pa.Table, file: Path) -> None:
    """Write the cluster and name of each image as CSV, for `read_names`.

    Args:
        table: of clusters; unreadable images are left out.
        file: replaced atomically.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["path", "cluster", "name"])
    for path, cluster, name in zip(*(table[column].to_pylist() for column in ("path", "cluster", "name")), strict=True):
        if cluster >= 0:
            writer.writerow([neutralized(path), cluster, neutralized(name or "")])
    write_atomically(file, text.getvalue().encode("utf-8", "surrogateescape"))


def read_names(file: Path, table: pa.Table, names: tuple[str, ...]) -> Partition:
    """Read which images belong together, and how the clusters are called.

    Args:
        file: CSV with the columns cluster and name, and path if it has a row for each image. Clusters and images without a row stay as they
            are; where an image's cluster is split, the image goes with most of those of its centroid.
        table: the run's clusters.
        names: present name of each cluster.
    Raises:
        DataError: the file cannot be read, is of other images, names unknown clusters, or has names that cannot be used.
    """
    rows = _rows(file)
    of_cluster = [
        (names[cluster], -1) if cluster < len(names) and names[cluster] else ("", cluster) for cluster in range(_n_clusters(table))
    ]
    keys = _by_image(file, rows, table, of_cluster) if "path" in rows[0] else _by_cluster(file, rows, table, of_cluster)
    sizes = Counter(key for key in keys if key is not None)
    _check_similar(sizes)
    if len(sizes) < 2:
        raise DataError(f"{str(file)!r} leaves one cluster; keep at least two names apart")
    first = {key: cluster for cluster, key in reversed([*zip(table["cluster"].to_pylist(), keys, strict=True)])}
    in_order = sorted(sizes, key=lambda key: (-sizes[key], first[key]))  # of equal ones, that which had the lower number
    numbers = {key: number for number, key in enumerate(in_order)}
    return Partition(np.array([-1 if key is None else numbers[key] for key in keys]), tuple(name for name, _ in numbers))


def _n_clusters(table: pa.Table) -> int:
    return int(table["cluster"].to_numpy().max()) + 1


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            head = opened.readline()
            opened.seek(0)
            delimiter = max(",;\t", key=head.count)  # spreadsheets write that of their country
            reader = csv.DictReader(opened, strict=True, delimiter=delimiter)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows, columns = list(reader), list(reader.fieldnames)
    except UnicodeDecodeError:
        raise DataError(f"cannot read names from {str(file)!r}: it is not UTF-8; save it as CSV UTF-8") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read names from {str(file)!r}: {getattr(error, 'strerror', None) or error}") from None
    for column in ("cluster", "name"):
        if column not in columns:
            raise DataError(
                f"{str(file)!r} has no column {column!r} (it has {', '.join(columns) or 'none'}); give cluster and name, and path for names by image"
            )
    if not rows:
        raise DataError(f"{str(file)!r} has no rows; nothing to apply")
    for number, row in enumerate(rows, start=2):
        if any(row[column] is None for column in columns):
            raise DataError(f"line {number} of {str(file)!r} has too few columns")
        row["name"] = _checked(restored(row["name"].strip()), f"line {number} of {str(file)!r}")
        if "path" in row:
            row["path"] = restored(row["path"])
    return rows


def _checked(name: str, where: str) -> str:
    """Return a name that files, folders and spreadsheets bear."""
    if found := _NOT_IN_FOLDERS.search(name):
        raise DataError(f"{where}: the name {name!r} contains {found.group()!r}, which the name of a folder cannot; choose another")
    if name.startswith(("=", "+", "-", "@")):
        raise DataError(f"{where}: the name {name!r} begins with {name[0]!r}, which spreadsheets take for a formula; choose another")
    if name.startswith(".") or name.endswith("."):
        raise DataError(f"{where}: the name {name!r} begins or ends with a dot; choose another")
    if re.fullmatch(r"cluster[ -]?\d+", name, re.IGNORECASE):
        raise DataError(f"{where}: the name {name!r} is that of a cluster without a name; leave it empty, or choose another")
    if len(name) > _LONGEST:
        raise DataError(f"{where}: the name {name[:20]!r}... has {len(name)} characters, more than {_LONGEST}; shorten it")
    return name


def _number(text: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
        raise DataError(f"{where}: the cluster {text!r} is not a number")
    return int(text.strip())


def _by_cluster(file: Path, rows: list[dict[str, str]], table: pa.Table, of_cluster: list[_Key]) -> list[_Key | None]:
    named: dict[int, str] = {}
    for number, row in enumerate(rows, start=2):
        where = f"line {number} of {str(file)!r}"
        cluster = _number(row["cluster"], where)
        if cluster >= len(of_cluster):
            raise DataError(f"{where}: there is no cluster {cluster}; the run has {len(of_cluster)}, from 0 to {len(of_cluster) - 1}")
        if named.setdefault(cluster, row["name"]) != row["name"]:
            raise DataError(f"{where}: cluster {cluster} is already named {named[cluster]!r}; to split it, name its images (column path)")
    for cluster, name in sorted(named.items()):
        former = of_cluster[cluster][0]
        if name and former and former != name:
            logger.warning(f"cluster {cluster}, which was called {former!r}, is now {name!r}; numbers change when clusters merge or split")
    keys = [
        (named[cluster], -1) if named.get(cluster) else ("", cluster) if cluster in named else key for cluster, key in enumerate(of_cluster)
    ]
    return [None if cluster < 0 else keys[cluster] for cluster in table["cluster"].to_pylist()]


def _by_image(file: Path, rows: list[dict[str, str]], table: pa.Table, of_cluster: list[_Key]) -> list[_Key | None]:
    place = {path: row for row, path in enumerate(table["path"].to_pylist())}
    clusters, centroids = table["cluster"].to_pylist(), table["centroid"].to_pylist()
    listed: dict[int, _Key] = {}
    for number, row in enumerate(rows, start=2):
        where = f"line {number} of {str(file)!r}"
        if row["path"] not in place:
            raise DataError(f"{where}: the run has no image {row['path']!r}; apply the names to the run that they were made for")
        image, cluster = place[row["path"]], _number(row["cluster"], where)
        key = (row["name"], -1) if row["name"] else ("", cluster)
        if listed.setdefault(image, key) != key:
            raise DataError(f"{where}: {row['path']!r} is listed before, in another cluster; list each image once")
    most = dict(_most_frequent((centroids[image], key) for image, key in listed.items()))
    return [
        None if cluster < 0 else listed.get(image) or most.get(centroids[image]) or of_cluster[cluster]
        for image, cluster in enumerate(clusters)
    ]


def _most_frequent(pairs: Iterator[tuple[int, _Key]]) -> Iterator[tuple[int, _Key]]:
    """Yield the most frequent key of each centroid."""
    for (centroid, key), _ in sorted(Counter(pairs).items(), key=lambda item: item[1]):
        yield centroid, key  # later ones, which are more frequent, replace earlier ones


def _check_similar(keys: Counter[_Key]) -> None:
    """Refuse names that differ only in capitals or spaces, which some file systems, and readers, take for the same."""
    seen: dict[str, str] = {}
    for name, _ in keys:
        plain = " ".join(name.casefold().split())
        if name and seen.setdefault(plain, name) != name:
            raise DataError(
                f"the names {seen[plain]!r} and {name!r} differ only in capitals or spaces; spell them alike to merge the clusters, or choose others"
            )
