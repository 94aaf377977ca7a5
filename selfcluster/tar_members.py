"""Where the members of a tar lie, found by going along its headers.

A tar is a chain: a header of 512 bytes with a name and a size, the member's bytes, filled up to a multiple of 512, and so on; blocks of zeros
close it. Three dialects give names that are too long for the header: ustar (a prefix), GNU (a member of type L before), and pax (a member of type x
before, which can also give a size). Python's tarfile reads the same, but makes an object of each member, and takes a damaged header for the end of the tar.
"""

from __future__ import annotations

from collections.abc import Iterator

from selfcluster.errors import DataError
from selfcluster.open_files import OpenFile

BLOCK = 512
_ZEROS = bytes(BLOCK)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}


def members_of(file: OpenFile, shown: str) -> Iterator[tuple[bytes, int, int, bytes]]:
    """Each ordinary file in a tar, in the tar's order: its name, where its bytes begin, how many they are, and the first up to 512 of them.

    Args:
        file: the tar.
        shown: its name in messages.
    Raises:
        DataError: it is compressed, damaged, or ends in the middle of a member.
    """
    end, place = file.n_bytes(), 0
    name, size = b"", -1  # what a GNU or pax header says of the member behind it
    while place < end:
        # With the first bytes of a member, so that a small one needs no second read.
        block = file.read(place, 2 * BLOCK)
        header, start = block[:BLOCK], block[BLOCK:]
        if header == _ZEROS[: len(header)]:  # the end, or the seam of two tars that were joined
            place += BLOCK
            continue
        _check(header, place, shown)
        kind = header[156:157]
        here = size if size >= 0 else _number(header[124:136], place, shown)
        # Links, devices and folders have no bytes, whatever their size says.
        n_bytes = 0 if kind in (b"1", b"2", b"3", b"4", b"5", b"6") else here
        begin = place + BLOCK
        own = name or _name(header)
        if begin + n_bytes > end:
            raise DataError(f"{shown!r} is cut off in the middle of {own.decode(errors='replace')!r}; get or pack it again")
        place = begin + -(-n_bytes // BLOCK) * BLOCK
        if kind == b"L":
            name = file.read(begin, n_bytes).rstrip(b"\0")
        elif kind == b"x":
            name, size = _pax(file.read(begin, n_bytes), begin, shown)
        elif kind == b"S":
            raise DataError(f"{shown!r} holds {own.decode(errors='replace')!r} as a sparse file; pack it again without --sparse")
        elif kind not in (b"g", b"K"):
            if kind in (b"0", b"\0", b"7") and not own.endswith(b"/"):
                yield own, begin, n_bytes, start[:n_bytes]
            name, size = b"", -1


def is_closed(file: OpenFile) -> bool:
    """Whether the tar ends as one should, in zeros; one that does not may have been cut off between two members."""
    return file.read(max(0, file.n_bytes() - BLOCK), BLOCK) == _ZEROS


def _check(header: bytes, place: int, shown: str) -> None:
    if place == 0:
        for begins, how in _COMPRESSED.items():
            if header.startswith(begins):
                raise DataError(f"{shown!r} is compressed ({how}), so no single image can be read from it; {UNPACK}")
    if len(header) < BLOCK:
        raise DataError(f"{shown!r} is {'no tar' if place == 0 else f'cut off at byte {place:,}'}; get or pack it again")
    # The sum of all bytes, with blanks where the sum itself stands.
    if _number(header[148:156], place, shown) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise DataError(f"{shown!r} is {'no tar' if place == 0 else f'damaged at byte {place:,}'}; get or pack it again")


UNPACK = "unpack it into a folder, or store it as an uncompressed .tar"


def _number(digits: bytes, place: int, shown: str) -> int:
    """Octal text, or GNU's binary numbers for what is too large for that."""
    if digits[0] & 0x80:
        return int.from_bytes(bytes([digits[0] & 0x7F]) + digits[1:], "big")
    try:
        return int(digits.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise DataError(f"{shown!r} is {'no tar' if place == 0 else f'damaged at byte {place:,}'}; get or pack it again") from None


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # GNU's own dialect ("ustar  ") keeps other things where the prefix stands.
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _pax(text: bytes, place: int, shown: str) -> tuple[bytes, int]:
    """Name and size among records of the form `length key=value`, each closed by a newline; the length is the whole record's."""
    name, size = b"", -1
    try:
        while text and text[0]:
            length, _, rest = text.partition(b" ")
            key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
            if key == b"path":
                name = value
            elif key == b"size":
                size = int(value)
            text = text[max(1, int(length)) :]
    except ValueError:
        raise DataError(f"{shown!r} is damaged at byte {place:,}; get or pack it again") from None
    return name, size
