"""Indexing a tar file: our header parser and the standard library's `tarfile`, in turns.

    python -m benchmarks.tar_index [--members 20000] [--turns 5]

Both yield name, offset and size of every member, and are checked against each other. Results: results/tar_index.json.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.record import record, spread
from selfcluster.data.readers.files import OpenFile
from selfcluster.data.readers.tar_headers import members_of

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def ours(path: Path) -> list[Any]:
    return [member[:3] for member in members_of(OpenFile(path), path.name)]


def theirs(path: Path) -> list[Any]:
    found = []
    with tarfile.TarFile(path, encoding="utf-8", errors="surrogateescape") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()
            if member.isfile():
                found.append((os.fsencode(member.name), member.offset_data, member.size))
    return found


def seconds_of(index: Callable[[Path], list[Any]], path: Path) -> float:
    began = time.perf_counter()
    index(path)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=5)
    a = parser.parse_args()
    figures: dict[str, Any] = {}
    for name, kind in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.tar"
            with tarfile.open(path, "w", format=kind) as archive:
                for number in range(a.members):
                    member = tarfile.TarInfo(f"{number:09}.jpg")
                    member.size, member.mtime = 3000, number + 0.5  # pax writes such a time into a header of its own
                    archive.addfile(member, io.BytesIO(bytes(3000)))
            assert ours(path) == theirs(path)
            turns = [{"ours": seconds_of(ours, path), "tarfile": seconds_of(theirs, path)} for _ in range(a.turns)]
        figures[name] = {
            **{who: spread([turn[who] for turn in turns]) for who in ("ours", "tarfile")},
            "tarfile / ours": spread([turn["tarfile"] / turn["ours"] for turn in turns]),
        }
        print(f"{name}: ours {figures[name]['ours']['median']:.3f} s, tarfile {figures[name]['tarfile / ours']['median']:.2f} times that")
    print(record("tar_index", {"members": a.members, "formats": figures}).name)


if __name__ == "__main__":
    main()
