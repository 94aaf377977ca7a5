"""JSON files of a run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfcluster.errors import CheckpointError
from selfcluster.runs.atomic import write_atomically


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write an object, completely or not at all."""
    write_atomically(file, json.dumps(content, indent=1).encode())


def read_json(file: Path, *keys: str, advice: str) -> dict[str, Any]:
    """Return the object in a file.

    Args:
        file: to read.
        keys: that it must have.
        advice: what the user can do if the file is damaged; the end of the message.
    Raises:
        CheckpointError: the file cannot be read, or does not contain an object with these keys.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"expected an object, found a {type(content).__name__}")
        if missing := set(keys) - content.keys():
            raise ValueError(f"{min(missing)!r} is missing")
        return content
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{str(file)!r} is damaged: {error}; {advice}") from None
