"""Decoded images, kept from one epoch to the next.

Decoding is most of what a photo costs before it reaches the network. Where all images fit the budget, each is decoded once, into a
file that every process maps into its memory: what is read often stays in memory, as far as there is room.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from selfcluster.data.readers.images import Decoded, DecodeLimit, Images, in_full
from selfcluster.errors import DataError

_N_LOOKED_AT = 256
_ROOM = 1.05
"""What is reserved, over the size that the sample of the images suggests."""


class CachedImages(Images):
    """The same images, each decoded once and then kept.

    Args:
        images: where they come from.
        least: how small they may be decoded for every use there will be; what `decode` is asked for later is at most that.
        n_bytes: room for all of them.
    Raises:
        OSError: there is no such room where the system keeps temporary files.
    """

    def __init__(self, images: Images, least: DecodeLimit, n_bytes: int) -> None:
        self.images, self.least, self.labels = images, least, images.labels
        handle, name = tempfile.mkstemp(prefix="selfcluster-", suffix=".images")
        self.file, self.n_bytes, self.lock = Path(name), n_bytes, multiprocessing.Lock()
        # The file is gone with whoever made it, though not with a worker that holds a copy of this.
        self._gone = weakref.finalize(self, _remove, self.file, os.getpid())
        try:
            if hasattr(os, "posix_fallocate"):  # or a full disk would kill the process in the middle of training
                os.posix_fallocate(handle, 0, self._begins + n_bytes)
            else:
                os.truncate(handle, self._begins + n_bytes)
        finally:
            os.close(handle)
        self._map()

    @property
    def _begins(self) -> int:
        return 8 * (1 + _N_FIELDS * len(self.images))

    def _map(self) -> None:
        whole = np.memmap(self.file, dtype=np.uint8, mode="r+")
        numbers = whole[: self._begins].view(np.int64)
        self.pixels = whole[self._begins :]
        self.used = numbers[:1]
        """Bytes of `pixels` that are given away."""
        self.table = numbers[1:].reshape(-1, _N_FIELDS)
        """For each image: 1 + where its pixels begin, or 0 where it is not here; their height, width and channels; its own height and width."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("pixels", "used", "table", "_gone")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> str:
        return self.images.path(index)

    def paths(self) -> pa.Array:
        return self.images.paths()

    def digest(self) -> str:
        return self.images.digest()

    def decoded_size(self, index: int, least: DecodeLimit = in_full) -> tuple[int, int]:
        return self.images.decoded_size(index, self.least)

    def decode(self, index: int, least: DecodeLimit = in_full) -> Decoded:
        """The image as it is kept, whatever is asked for."""
        with self.lock:
            begin, height, width, channels, *size = self.table[index].tolist()
        if begin:
            there = self.pixels[begin - 1 : begin - 1 + height * width * channels].reshape(height, width, channels)
            return Decoded(torch.from_numpy(there).permute(2, 0, 1), (size[0], size[1]))
        decoded = self.images.decode(index, self.least)
        self._keep(index, decoded)
        return decoded

    def _keep(self, index: int, decoded: Decoded) -> None:
        pixels: Tensor = decoded.pixels.permute(1, 2, 0)
        with self.lock:
            begin = int(self.used[0])
            if begin + pixels.numel() > len(self.pixels):
                return
            self.used[0] = begin + pixels.numel()
        self.pixels[begin : begin + pixels.numel()] = pixels.numpy().ravel()
        with self.lock:
            self.table[index] = [begin + 1, *pixels.shape, *decoded.size]

    def says(self) -> str:
        """What the user should know of it."""
        if not self.n_bytes:
            return f"no room to keep images decoded in {str(self.file.parent)!r}, so each epoch decodes them anew; set TMPDIR to a folder with room"
        return f"images are kept decoded, in {str(self.file)!r}, {self.n_bytes / 2**30:.1f} GiB while training"

    def close(self) -> None:
        """The file is gone; nothing may be decoded any more."""
        self._gone()


_N_FIELDS = 6


def _remove(file: Path, owner: int) -> None:
    if os.getpid() == owner:
        file.unlink(missing_ok=True)


def bytes_of(images: Images, least: DecodeLimit) -> int:
    """How much memory all of them take, decoded at this share, by the sizes of a sample."""
    sizes = []
    for index in np.unique(np.linspace(0, len(images) - 1, _N_LOOKED_AT).astype(int)):
        try:
            height, width = images.decoded_size(int(index), least)
        except DataError:
            continue
        sizes.append(3 * height * width)
    return int(_ROOM * len(images) * float(np.mean(sizes))) if sizes else 0
