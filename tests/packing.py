"""Tar and parquet files for tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests import tiny


def pngs(n: int = 12, seed: int = 0) -> list[bytes]:
    """Return PNG files of smooth color images of 20 x 20 pixels."""
    return [_png(image) for image in tiny.images(n, seed=seed)]


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def tar(path: Path, members: Mapping[str, bytes] | Sequence[tuple[str, bytes]], kind: int = tarfile.PAX_FORMAT) -> Path:
    """Write a tar of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def parquet(path: Path, columns: Mapping[str, Any], *, group: int = 5, features: Mapping[str, Any] | None = None, **how: Any) -> Path:
    """Write a parquet file of these columns, with groups of this many rows, and Hugging Face's metadata if given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=group, **how)
    return path


def structs(contents: Sequence[bytes | None]) -> pa.Array:
    """Return a column of images as Hugging Face stores them."""
    rows = [{"bytes": content, "path": f"{place}.png"} for place, content in enumerate(contents)]
    return pa.array(rows, type=pa.struct({"bytes": pa.binary(), "path": pa.string()}))
