"""The headers of a tar file, read without its contents.

`tarfile` from the standard library finds the same members in three times the time (benchmarks/tar_index.py), and takes a damaged header
for the end of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from selfcluster.data.readers.files import OpenFile
from selfcluster.errors import DataError

BLOCK = 512
_ZEROS = bytes(BLOCK)
_MOST_ZEROS = 2**26
"""Bytes of zeros after which a tar has ended, whatever follows; two blocks end it, but another tar may be appended."""
_LONGEST = 2**20
"""Bytes of a header with a long name, or with pax records."""
_OCTAL = re.compile(rb"[0-7]*")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


class Member(NamedTuple):
    """An ordinary file in a tar."""

    name: bytes
    offset: int
    """Of its content in the tar."""
    n_bytes: int
    start: bytes
    """The first 512 bytes of its content, at most."""


def members_of(file: OpenFile, shown: str) -> Iterator[Member]:
    """Yield the ordinary files in a tar, in the tar's order.

    Args:
        file: the tar.
        shown: its name in messages.
    Raises:
        DataError: the tar is compressed, damaged, or ends in the middle of a member.
    """
    end, offset, n_zeros = file.n_bytes(), 0, 0
    name, size = b"", -1  # from a GNU or pax header, for the member that follows
    while offset < end:
        # Read together with the start of the content, so that a small member needs no second read.
        block = file.read(offset, 2 * BLOCK)
        header, start = block[:BLOCK], block[BLOCK:]
        if header == _ZEROS[: len(header)]:  # the end, or the seam of two concatenated tars
            offset, n_zeros = offset + BLOCK, n_zeros + BLOCK
            if n_zeros > _MOST_ZEROS:
                return
            continue
        n_zeros = 0
        _check(header, offset, shown)
        kind = header[156:157]
        # Links, devices and folders have no content, whatever their size field says.
        n_bytes = 0 if kind in b"123456" else size if size >= 0 else _number(header[124:136], offset, shown)
        content = offset + BLOCK
        own = name or _name(header)
        if content + n_bytes > end:
            raise DataError(f"{shown!r} is truncated in the middle of {own.decode(errors='replace')!r}; download or create it again")
        offset = content + -(-n_bytes // BLOCK) * BLOCK
        if kind in (b"L", b"x") and n_bytes > _LONGEST:
            raise _damage(content, shown)
        if kind == b"L":
            name = file.read(content, n_bytes).rstrip(b"\0")
        elif kind == b"x":
            name, size = _pax(file.read(content, n_bytes), content, shown)
        elif kind == b"S":
            raise DataError(f"{shown!r} contains {own.decode(errors='replace')!r} as a sparse file; create it again without --sparse")
        elif kind not in (b"g", b"K"):
            if kind in (b"0", b"\0", b"7") and not own.endswith(b"/"):
                yield Member(own, content, n_bytes, start[:n_bytes])
            name, size = b"", -1


def is_closed(file: OpenFile) -> bool:
    """Return whether the tar ends in zeros, as it should; if not, it may be truncated between two members."""
    return file.read(max(0, file.n_bytes() - BLOCK), BLOCK) == _ZEROS


def _check(header: bytes, offset: int, shown: str) -> None:
    if offset == 0:
        for magic, how in _COMPRESSED.items():
            if header.startswith(magic):
                raise DataError(
                    f"{shown!r} is compressed ({how}), so single images cannot be read from it; "
                    "unpack it into a folder, or store it as an uncompressed .tar"
                )
    if len(header) < BLOCK:
        raise DataError(f"{shown!r} is {'not a tar file' if offset == 0 else f'truncated at byte {offset:,}'}; download or create it again")
    # The sum of all bytes, with the checksum's own field counted as blanks.
    if _number(header[148:156], offset, shown) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise _damage(offset, shown)


def _damage(offset: int, shown: str) -> DataError:
    return DataError(f"{shown!r} is {'not a tar file' if offset == 0 else f'damaged at byte {offset:,}'}; download or create it again")


def _number(digits: bytes, offset: int, shown: str) -> int:
    """Return a number written in octal, or in GNU's binary form for larger ones."""
    if digits[0] & 0x80:
        return int.from_bytes(bytes([digits[0] & 0x7F]) + digits[1:], "big")
    octal = digits.strip(b"\0 ")
    if not _OCTAL.fullmatch(octal):
        raise _damage(offset, shown)
    return int(octal or b"0", 8)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # GNU's format ("ustar  ") uses the field of the prefix for other things.
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(text: bytes, offset: int, shown: str) -> tuple[bytes, int]:
    """Return name and size from records `length key=value\\n`, where the length is that of the whole record."""
    name, size = b"", -1
    try:
        while text and text[0]:
            length, _, rest = text.partition(b" ")
            if not len(length) + 2 < int(length) <= len(text) or text[int(length) - 1] != ord("\n"):
                raise ValueError
            key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
            if key == b"path":
                name = value
            elif key == b"size":
                size = int(value)
            text = text[int(length) :]
    except ValueError:
        raise _damage(offset, shown) from None
    return name, size
