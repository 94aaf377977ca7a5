"""The features of images, cached in the run's folder.

features/<key>.f32    a row of float32 for each image: the encoder's features, then a thumbnail of a few pixels, for finding copies
features/<key>.json   what the rows belong to: the key follows from weights, images and preparation

Rows are written as they are computed, so memory does not grow with the number of images, and an interrupted command can resume.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from selfcluster.clustering.duplicates import thumbnails
from selfcluster.data.readers.images import Images
from selfcluster.device import precision_of
from selfcluster.distributed import logger
from selfcluster.runs.atomic import write_atomically
from selfcluster.runs.lock import locked
from selfcluster.runs.run import OpenRun

_FEWEST = 256
"""Images worth caching; fewer are embedded in no time, and are cached only if they are the run's own."""


class FeatureCache:
    """The rows of these images in a run's folder, complete or unfinished.

    Args:
        run: provides the encoder and the folder.
        images: the rows' images.
    """

    def __init__(self, run: OpenRun, images: Images) -> None:
        self.run, self.images, self.n, self.width = run, images, len(images), run.model.n_features + thumbnails.width
        self.n_bytes = 4 * self.n * self.width
        self.folder = run.path / "features"
        self.is_on = run.config.run.keep_features and (self.n >= _FEWEST or run.is_own(images))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the rows belong to."""
        run = self.run
        return {
            "weights": run.weights_digest,
            "images": self.images.fingerprint(),
            "pixels": run.pixels,
            "interpolation": run.config.model.interpolation,
            "precision": str(precision_of(run.config, run.device)),
            "max_megapixels": run.config.data.max_megapixels,
            "width": self.width,
        }

    @cached_property
    def file(self) -> Path:
        """File of the complete rows."""
        key = hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()[:16]
        return self.folder / f"{key}.f32"

    @property
    def unfinished(self) -> Path:
        """File that rows are appended to."""
        return self.file.with_suffix(".unfinished")

    def is_complete(self) -> bool:
        """Whether every row is in the cache."""
        return self.is_on and self.file.is_file() and self.file.stat().st_size == self.n_bytes

    def rows(self) -> Float[np.ndarray, "n w"]:
        """Return all rows; changes to them are not written."""
        return np.memmap(self.file, np.float32, mode="c", shape=(self.n, self.width))

    def resume(self) -> int:
        """Cut off an incomplete row that an interrupted command left, and return the number of complete ones."""
        if not self.unfinished.is_file():
            return 0
        n = self.unfinished.stat().st_size // (4 * self.width)
        os.truncate(self.unfinished, 4 * self.width * n)
        return n

    def add(self, batches: Iterator[Float[np.ndarray, "b w"]]) -> None:
        """Append rows until the cache is complete."""
        with self.unfinished.open("ab") as file:
            for batch in batches:
                file.write(batch.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.unfinished, self.file)

    @contextlib.contextmanager
    def claimed(self) -> Iterator[bool]:
        """Yield whether this process may add rows; while it may, no other can."""
        if not self.is_on:
            yield False
            return
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(exist_ok=True)
                is_free = stack.enter_context(locked(self.file.with_suffix(".lock")))
                problem = self._make_room() if is_free else "another process is computing the same ones"
                if problem is None:
                    write_atomically(self.file.with_suffix(".json"), json.dumps({**self.identity, "n": self.n}, indent=1).encode())
            except OSError as error:
                problem = f"{str(self.folder)!r} cannot be written ({error.strerror or error})"
            if problem is not None:
                logger.warning(f"features are not kept: {problem}")
            yield problem is None

    def _make_room(self) -> str | None:
        """Remove features of older weights, unless a process is computing them, and return why there is still not enough room."""
        for note in self.folder.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError), locked(note.with_suffix(".lock")) as is_ours:
                if is_ours and json.loads(note.read_text())["weights"] != self.identity["weights"]:
                    for ending in (".f32", ".unfinished", ".json"):
                        note.with_suffix(ending).unlink(missing_ok=True)
        free = shutil.disk_usage(self.folder).free
        written = self.unfinished.stat().st_size if self.unfinished.is_file() else 0
        if free < 1.05 * (self.n_bytes - written):
            return f"they take {self.n_bytes / 1e6:,.0f} MB, and {str(self.folder)!r} has {free / 1e6:,.0f} MB of room"
        return None
