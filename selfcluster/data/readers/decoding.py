"""Decoding of image files to upright pixels with three channels, whatever their format, depth and orientation.

An image may be a file or bytes from a larger file; both are opened here, and so read, refused and reduced in the same way.
"""

from __future__ import annotations

import contextlib
import io
import math
import stat
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from selfcluster.errors import DataError

try:
    import pillow_heif
except ImportError:
    READS_HEIC = False
else:
    pillow_heif.register_heif_opener()
    READS_HEIC = True

HEIC_EXTRA = "pip install 'selfcluster[heif]'"

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""What follows "ftyp" at the start of a HEIC file."""


@contextlib.contextmanager
def opened(file: Path | bytes, max_megapixels: float) -> Iterator[Image.Image]:
    """Open an image and read its header, not its pixels; any error inside the block becomes a DataError.

    Args:
        file: path or content of the image.
        max_megapixels: an image that declares more is refused.
    Raises:
        DataError: the image cannot be read; the message is the reason.
    """
    try:
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            raise DataError("is not a regular file")  # opening a pipe would wait for its other end
        with _pillow_quiet, Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            width, height = image.size
            if width * height > max_megapixels * 1e6:
                raise DataError(f"declares {width} x {height} pixels, over the limit of {max_megapixels:g} megapixels")
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception for a damaged file
        raise DataError(_reason(error, file)) from None


class _PillowQuiet:
    """A context in which Pillow's own limit on pixels is off and its warnings (size, damaged EXIF, unknown tags) are not shown.

    Both settings are global, so the first thread to enter changes them and the last one to leave restores them.
    """

    def __init__(self) -> None:
        self.lock, self.n_inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            self.n_inside += 1
            if self.n_inside == 1:
                self.limit, self.warnings = Image.MAX_IMAGE_PIXELS, warnings.catch_warnings()
                self.warnings.__enter__()
                warnings.simplefilter("ignore")
                # Pillow refuses images above twice its limit, whatever max_megapixels is.
                Image.MAX_IMAGE_PIXELS = None

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.n_inside -= 1
            if self.n_inside == 0:
                Image.MAX_IMAGE_PIXELS = self.limit
                self.warnings.__exit__(None, None, None)


_pillow_quiet = _PillowQuiet()


def _reason(error: Exception, file: Path | bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        start = file[:12] if isinstance(file, bytes) else _start_of(file)
        if start[4:8] == b"ftyp" and start[8:] in _HEIC_BRANDS and not READS_HEIC:
            return f"is HEIC, which needs {HEIC_EXTRA}"
        return "is not an image" if start else "is empty"
    if isinstance(error, FileNotFoundError):
        return "no longer exists"
    message = str(error) if isinstance(file, bytes) else str(error).replace(str(file), file.name)
    return " ".join(message.split()) or type(error).__name__


def _start_of(file: Path) -> bytes:
    with contextlib.suppress(OSError), file.open("rb") as content:
        return content.read(12)
    return b""


def draft(image: Image.Image, scale: float) -> None:
    """Have a JPEG decoded at this scale or the next larger one that JPEG offers; other formats are decoded in full."""
    if scale <= 0.5:
        image.draft(None, (math.ceil(scale * image.width), math.ceil(scale * image.height)))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return height and width after the rotation that EXIF asks for."""
    is_sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return image.size if is_sideways else (image.height, image.width)


def upright_pixels(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """Decode the first frame: upright, alpha over white, 16 bits scaled to 8."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        values, transparent = np.asarray(image), image.info.get("transparency")
        pixels = _to_8_bits(values)
        if isinstance(transparent, int):  # the one value that PNG calls transparent
            pixels[values == transparent] = 255
        image = Image.fromarray(pixels)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def _to_8_bits(values: NDArray) -> NDArray[np.uint8]:
    """Scale integers from 16 bits and fractions from 0 to 1; values outside that range, from their own minimum and maximum."""
    fractions = np.issubdtype(values.dtype, np.floating)
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = 0.0, 1.0 if fractions else 65535.0
    if values.min() < low or values.max() > high:
        low, high = values.min(), values.max()
    # A flat image outside the range is black.
    return np.round((values - low) / max(high - low, np.finfo(np.float64).tiny) * 255).astype(np.uint8)
