"""data.parquet: the images of a run, which of them it was trained on, and a digest of them all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selfcluster.data.dataset import Data
from selfcluster.errors import CheckpointError, DataError


@dataclass(frozen=True)
class Manifest:
    """Contents of data.parquet."""

    paths: pa.Array
    """Paths of all images, in the order of the data."""
    trained_on: NDArray[np.int64]
    """Indices of the images that are trained on; the others are held out."""
    digest: str
    """Digest of the images, see `Images.digest`."""


def has_manifest(folder: Path) -> bool:
    """Return whether the run's own images are known; those of an imported or exported run are not."""
    return (folder / "data.parquet").is_file()


def write_manifest(folder: Path, data: Data, trained_on: NDArray[np.int64]) -> None:
    """Write data.parquet."""
    is_trained_on = np.zeros(len(data.images), dtype=bool)
    is_trained_on[trained_on] = True
    table = pa.table({"path": data.images.paths(), "trained_on": is_trained_on})
    labels = data.images.labels
    facts = {"digest": data.images.digest(), "n_classes": str(labels.n_classes if labels is not None else 0)}
    pq.write_table(table.replace_schema_metadata(facts), folder / "data.parquet", compression="zstd")


def is_labeled(folder: Path) -> bool:
    """Return whether the run's images have labels of at least two classes, so that it can be evaluated against them; assumed of older runs."""
    facts = pq.read_schema(folder / "data.parquet").metadata or {}
    return int(facts.get(b"n_classes", 2)) >= 2


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a run.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if not has_manifest(folder):
        raise CheckpointError(f"{str(folder)!r} has no data.parquet, since it was imported or exported; name the images (IMAGES)")
    file = folder / "data.parquet"
    try:
        table = pq.read_table(file)
        return Manifest(
            table["path"].combine_chunks(), np.flatnonzero(table["trained_on"].to_numpy()), table.schema.metadata[b"digest"].decode()
        )
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, NotImplementedError) as error:
        raise CheckpointError(f"cannot read {str(file)!r}: {' '.join(str(error).split())}; start a new run") from None


def check_same_data(folder: Path, data: Data) -> None:
    """Check that the images are those that the run was started with.

    Raises:
        DataError: images were added, removed or renamed (three are named), or their contents have changed.
        CheckpointError: as for `read_manifest`.
    """
    manifest = read_manifest(folder)
    if manifest.digest == data.images.digest():
        return
    before, now = manifest.paths, data.images.paths()
    removed, added = (these.filter(pc.invert(pc.is_in(these, those))) for these, those in ((before, now), (now, before)))
    names = [*(f"-{path}" for path in removed[:3].to_pylist()), *(f"+{path}" for path in added[:3].to_pylist())][:3]
    change = f"{len(removed):,} images removed, {len(added):,} added ({', '.join(names)})" if names else "the contents of images differ"
    raise DataError(f"the images of run {str(folder)!r} have changed: {change}; restore them, or start a new run")
