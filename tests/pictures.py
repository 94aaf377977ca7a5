"""Small image files for tests."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from selfcluster.data.readers.folder import FolderImages


def png(size: tuple[int, int] = (5, 4), color: object = (200, 30, 60), mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, "png")
    return file.getvalue()


def fill(root: Path, *names: str, content: bytes | None = None) -> Path:
    content = png() if content is None else content
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def paths(images: FolderImages) -> list[str]:
    return [images.path(index) for index in range(len(images))]
