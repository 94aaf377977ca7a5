"""Which column of a parquet file contains the images, and which their classes, with the help of Hugging Face's metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfcluster.data.readers.labels import Labels, labels_in, labels_of
from selfcluster.errors import DataError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "cls", "target")


def image_column(schema: pa.Schema, file: str, wanted: str) -> str:
    """Return the wanted column, or else image or img, or else the only one that can contain images.

    Raises:
        DataError: no column can contain images, several can, or the wanted one cannot.
    """
    features = _features(schema)
    candidates = [field.name for field in schema if is_bytes(field.type) or _is_struct_of_bytes(field.type)]
    candidates = [name for name in candidates if features.get(name, {}).get("_type") == "Image"] or candidates
    hint = f"none of its columns ({', '.join(schema.names)}) contains bytes, or structs of bytes and path"
    if candidates:
        hint = f"columns that can contain images: {', '.join(candidates)}"
    if wanted and wanted not in candidates:
        raise DataError(f"{file!r} has no column {wanted!r} of images; {hint}")
    if not candidates:
        raise DataError(f"{file!r} contains no images; {hint}")
    named = [name for name in (wanted, *_IMAGE_COLUMNS) if name in candidates]
    if not named and len(candidates) > 1:
        choice = f"{file}#{candidates[0]}"
        raise DataError(f"{file!r} has several columns that can contain images, {', '.join(candidates)}; choose one, such as {choice!r}")
    return (named or candidates)[0]


def labels_from(files: Sequence[Path], schema: pa.Schema) -> Labels | None:
    """Return the classes in the column label, labels, fine_label, class, cls or target, or else in the only one that is declared a class.

    Args:
        files: parquet files, in the order of the images.
        schema: of the first file.
    Returns:
        None if no such column exists, or a file lacks it.
    Raises:
        DataError: the column cannot be read.
    """
    features = _features(schema)
    candidates = [name for name in schema.names if _is_label(schema.field(name).type)]
    declared = [name for name in candidates if features.get(name, {}).get("_type") == "ClassLabel"]
    by_name = [name for name in _LABEL_COLUMNS if name in candidates]
    if not by_name and len(declared) != 1:
        return None
    name = (by_name or declared)[0]
    parts = []
    for file in files:
        try:
            table = pq.ParquetFile(file).read(columns=[name], use_threads=False)
            if not table.num_columns:
                return None
            parts.append(table.column(0).cast(pa.large_string()).combine_chunks())
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot read column {name!r} of {str(file)!r}: {' '.join(str(error).split())}") from None
    values = pa.concat_arrays(parts)
    names, kind = features.get(name, {}).get("names"), schema.field(name).type
    are_names = isinstance(names, list) and names and all(isinstance(text, str) for text in names)
    if are_names and pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        codes = values.cast(pa.int64()).fill_null(-1).to_numpy()
        if codes.max() < len(names):
            return labels_of(codes, len(codes), tuple(names))
    return labels_in(values)


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a column of this type contains bytes."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_struct_of_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 and is_bytes(kind.field("bytes").type)


def _is_label(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return Hugging Face's description of each column; empty without their metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}
