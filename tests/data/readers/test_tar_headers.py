"""Members of tar files, compared with those that tarfile finds."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from selfcluster.data.readers.files import OpenFile
from selfcluster.data.readers.tar_headers import Member, is_closed, members_of
from selfcluster.errors import DataError
from tests import packing

KINDS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


NAMES = ["a.jpg", "日本 é.png", "deep/" * 30 + "long.jpg", "x" * 90 + "/" + "y" * 90 + ".png", " odd .jpg", "empty.txt"]


def members(path: Path) -> list[Member]:
    return list(members_of(OpenFile(path), path.name))


def theirs(path: Path) -> list[tuple[bytes, int, int]]:
    with tarfile.open(path, ignore_zeros=True) as archive:
        return [(m.name.encode("utf-8", "surrogateescape"), m.offset_data, m.size) for m in archive if m.isfile()]


def content(name: str) -> bytes:
    return (name * 400).encode()[: 700 if "y" in name else 512 if "odd" in name else 0 if "empty" in name else 100]


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_those_that_tarfile_finds(tmp_path: Path, kind: str) -> None:
    path = packing.tar(tmp_path / "x.tar", {name: content(name) for name in NAMES}, KINDS[kind])
    found = members(path)
    assert [one[:3] for one in found] == theirs(path)
    assert len(found) == len(NAMES)
    for (name, begin, n_bytes, start), given in zip(found, NAMES, strict=True):
        assert name.decode() == given
        assert path.read_bytes()[begin : begin + n_bytes] == content(given)
        assert start == content(given)[:512]


@pytest.mark.parametrize("kind", KINDS)
def test_folders_and_links_are_skipped(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "a.jpg").write_bytes(b"a" * 600)
    (tmp_path / "in" / "soft.jpg").symlink_to("sub/a.jpg")
    (tmp_path / "in" / "zhard.jpg").hardlink_to(tmp_path / "in" / "sub" / "a.jpg")
    with tarfile.open(tmp_path / "x.tar", "w", format=KINDS[kind]) as archive:
        archive.add(tmp_path / "in", "./in")  # fractional times, which pax stores in a separate header
        archive.addfile(tarfile.TarInfo("pipe.jpg"), None)
    assert [one[:3] for one in members(tmp_path / "x.tar")] == theirs(tmp_path / "x.tar")
    assert sum(n_bytes == 600 for _, _, n_bytes, _ in members(tmp_path / "x.tar")) == 1


def test_sizes_that_pax_or_gnus_binary_numbers_give(tmp_path: Path) -> None:
    size = 8 * 2**30 + 5  # beyond eleven octal digits
    for kind in ("gnu", "pax"):
        member = tarfile.TarInfo("huge.jpg")
        member.size = size
        path = tmp_path / f"{kind}.tar"
        with path.open("wb") as file:
            header = member.tobuf(KINDS[kind])
            file.write(header)
            file.truncate(len(header) + size + 512 + 1024)  # a sparse file: nothing is written
        assert [one[:3] for one in members(path)] == [(b"huge.jpg", len(header), size)]


def test_concatenated_tars_are_read_to_the_end(tmp_path: Path) -> None:
    first = packing.tar(tmp_path / "1.tar", {"a.jpg": b"a"}).read_bytes()
    (tmp_path / "x.tar").write_bytes(first + packing.tar(tmp_path / "2.tar", {"b.jpg": b"b"}).read_bytes())
    assert [name for name, *_ in members(tmp_path / "x.tar")] == [b"a.jpg", b"b.jpg"]


def test_truncation_anywhere_is_found(tmp_path: Path) -> None:
    whole = packing.tar(tmp_path / "x.tar", {name: content(name) for name in NAMES})
    all_members, all_bytes, cut, n_between_members = members(whole), whole.read_bytes(), tmp_path / "cut.tar", 0
    length = max(begin + n_bytes for _, begin, n_bytes, _ in all_members)
    assert is_closed(OpenFile(whole))
    for n_bytes in [*range(512, length, 97), *range(512, length, 512)]:
        cut.write_bytes(all_bytes[:n_bytes])
        try:
            found = members(cut)
        except DataError:
            with pytest.raises(DataError, match=r"'cut\.tar' is truncated"):
                members(cut)
        else:  # between two members
            assert found == all_members[: len(found)]
            assert not is_closed(OpenFile(cut))
            n_between_members += 1
    assert 0 < n_between_members < 40


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = packing.tar(tmp_path / "x.tar", {f"{i}.jpg": b"x" * 100 for i in range(5)})
    content = path.read_bytes()
    for place in range(2048, 2048 + 512, 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x15
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"'x.tar' is damaged at byte 2,048; download or create it again"):
            members(path)


@pytest.mark.parametrize(("how", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_tars_are_refused_whatever_their_name(tmp_path: Path, how: str, pack: object) -> None:
    whole = packing.tar(tmp_path / "x.tar", {"a.jpg": b"a" * 1000}).read_bytes()
    (tmp_path / "x.tar").write_bytes(pack(whole))  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"'x.tar' is compressed \({how}\).*unpack it into a folder, or store it"):
        members(tmp_path / "x.tar")


def test_zstd_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(2000))
    with pytest.raises(DataError, match=r"compressed \(zstd\)"):
        members(tmp_path / "x.tar")


@pytest.mark.parametrize("content", [b"hello", b"hello" * 1000, bytes(range(256)) * 8])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"'x\.tar' is not a tar file") as caught:
        members(tmp_path / "x.tar")
    assert "\n" not in str(caught.value)


def test_empty_tars_have_no_members(tmp_path: Path) -> None:
    (tmp_path / "nothing.tar").write_bytes(b"")
    assert members(tmp_path / "nothing.tar") == members(packing.tar(tmp_path / "x.tar", {})) == []


def test_sparse_members_and_bad_pax_records_are_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("holes.jpg")
    member.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"'holes\.jpg' as a sparse file"):
        members(tmp_path / "x.tar")
    member, records = tarfile.TarInfo("header"), b"xx path=a.jpg\n"
    member.type, member.size = tarfile.XHDTYPE, len(records)
    (tmp_path / "x.tar").write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + bytes(1024))
    with pytest.raises(DataError, match="damaged at byte 512"):
        members(tmp_path / "x.tar")


def test_unicode_names_of_the_development_data(shared_data: Path) -> None:
    path = shared_data / "awkward" / "unicode_names.tar"
    assert [one[:3] for one in members(path)] == theirs(path)
    assert len(members(path)) == 4
    assert io.BytesIO(members(path)[0][3]).read(2) == b"\xff\xd8"


def _with_field(path: Path, offset: int, place: slice, value: bytes) -> Path:
    """Change a field of a header, and its checksum."""
    content = bytearray(path.read_bytes())
    header = content[offset : offset + 512]
    header[place] = value.ljust(place.stop - place.start, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content[offset : offset + 512] = header
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "size", [b"-0000001000", b"+0000001000", b"0_10", b"0x10", b"\xff" * 12, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\x00"]
)
def test_a_size_with_a_sign_is_refused(tmp_path: Path, size: bytes) -> None:
    path = packing.tar(tmp_path / "x.tar", {"a.jpg": b"a" * 600, "b.jpg": b"b"}, tarfile.USTAR_FORMAT)
    _with_field(path, 0, slice(124, 136), size)
    with pytest.raises(DataError, match=r"x\.tar"):
        members(path)


def test_a_long_name_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = packing.tar(tmp_path / "x.tar", {"y" * 200 + ".jpg": b"a" * 600}, tarfile.GNU_FORMAT)
    _with_field(path, 0, slice(124, 136), b"%011o" % 2**31)
    os.truncate(path, 2**31 + 2**20)  # nothing of it takes room
    with pytest.raises(DataError, match="damaged"):
        members(path)


@pytest.mark.parametrize("record", [b"0 path=a\n", b"-9 path=a\n", b"99 path=a\n", b"x path=a\n", b"5 p\n" + b"1 \n" * 3000])
def test_damaged_pax_records_are_refused(tmp_path: Path, record: bytes) -> None:
    path = packing.tar(tmp_path / "x.tar", {"é" * 200 + ".jpg": b"a" * 600}, tarfile.PAX_FORMAT)
    content = bytearray(path.read_bytes())
    content[512:1024] = record[:512].ljust(512, b"\0")
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        members(path)


def test_a_tail_of_zeros_ends_a_tar_however_long(tmp_path: Path) -> None:
    path = packing.tar(tmp_path / "x.tar", {"a.jpg": b"a" * 600}, tarfile.USTAR_FORMAT)
    os.truncate(path, 2**40)
    assert [member.name for member in members(path)] == [b"a.jpg"]
