"""Decoded images, kept from one epoch to the next.

Decoding is most of what a photo costs before it reaches the network. If all images fit the budget, each is decoded once, into a temporary
file that every process maps into memory; the system keeps in memory what is read often.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from selfcluster.data.readers.images import Decoded, Images, MinScale, full_scale
from selfcluster.errors import DataError
from selfcluster.temporary import remove_with, reserve_file

_N_SAMPLED = 256
_MARGIN = 1.05
"""Reserved space over the size estimated from the sample."""
_N_FIELDS = 6


class CachedImages(Images):
    """Images that are decoded once and then cached.

    Args:
        images: where they come from.
        min_scale: scale at which every image is decoded; the `min_scale` of later calls is ignored.
        n_bytes: size of all decoded images.
    Raises:
        OSError: the system's temporary folder does not have enough space.
    """

    def __init__(self, images: Images, min_scale: MinScale, n_bytes: int) -> None:
        self.images, self.min_scale, self.labels, self.n_bytes = images, min_scale, images.labels, n_bytes
        self.table_bytes = 8 * (1 + _N_FIELDS * len(images))
        self.file, self.lock = reserve_file(self.table_bytes + n_bytes, suffix=".images"), multiprocessing.Lock()
        remove_with(self, self.file)
        self._map()

    def _map(self) -> None:
        whole = np.memmap(self.file, dtype=np.uint8, mode="r+")
        numbers = whole[: self.table_bytes].view(np.int64)
        self.pixels = whole[self.table_bytes : self.table_bytes + self.n_bytes]
        self.used = numbers[:1]
        """Bytes of `pixels` in use."""
        self.table = numbers[1:].reshape(-1, _N_FIELDS)
        """For each image: 1 + offset of its pixels, or 0 if it is not cached; their height, width and channels; height and width of the whole image."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("pixels", "used", "table")}

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

    def decoded_size(self, index: int, min_scale: MinScale = full_scale) -> tuple[int, int]:
        return self.images.decoded_size(index, self.min_scale)

    def decode(self, index: int, min_scale: MinScale = full_scale) -> Decoded:
        """Return the image at the scale of the cache."""
        with self.lock:
            begin, height, width, channels, *size = self.table[index].tolist()
        if begin:
            pixels = self.pixels[begin - 1 : begin - 1 + height * width * channels].reshape(height, width, channels)
            return Decoded(torch.from_numpy(pixels).permute(2, 0, 1), (size[0], size[1]))
        decoded = self.images.decode(index, self.min_scale)
        self._keep(index, decoded)
        return decoded

    def _keep(self, index: int, decoded: Decoded) -> None:
        pixels = decoded.pixels.permute(1, 2, 0)
        with self.lock:
            begin = int(self.used[0])
            if begin + pixels.numel() > len(self.pixels):
                return
            self.used[0] = begin + pixels.numel()
        self.pixels[begin : begin + pixels.numel()] = pixels.numpy().ravel()
        with self.lock:
            self.table[index] = [begin + 1, *pixels.shape, *decoded.size]

    def note(self) -> str:
        """Return one line about the cache for the user."""
        if not self.n_bytes:
            return f"no room to cache decoded images in {str(self.file.parent)!r}, so each epoch decodes them again; set TMPDIR to a folder with room"
        return f"decoded images are cached in {str(self.file)!r} ({self.n_bytes / 2**30:.1f} GiB) during training"


def decoded_bytes(images: Images, min_scale: MinScale) -> int:
    """Estimate the bytes of all images, decoded at this scale, from the sizes of a sample."""
    sizes = []
    for index in np.unique(np.linspace(0, len(images) - 1, _N_SAMPLED).astype(int)):
        try:
            height, width = images.decoded_size(int(index), min_scale)
        except DataError:
            continue
        sizes.append(3 * height * width)
    return int(_MARGIN * len(images) * float(np.mean(sizes))) if sizes else 0
