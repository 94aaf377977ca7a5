"""Full disks: each command on a file system with a few KiB free must say so in one line, and leave everything as it was.

    python -m benchmarks.faults.disk_full [--mib 48]      # as root on Linux, for it mounts a tmpfs

A run on the digits is copied to the tmpfs, which a file then fills up to the free space of the trial. After a failure every file must be what it
was, without new ones, and the command must succeed once there is room again. Results: results/faults-disk-full.json.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command_line import parser
from benchmarks.record import record

_FREE = (0, 4, 16, 64, 256, 1024, 4096)
"""KiB that are free in each trial."""
_PROGRAM = [sys.executable, "-m", "selfcluster"]
_SETTINGS = ["--device", "cpu", "--encoder", "resnet10_small_quarter_s2", "--epochs", "2", "--checkpoint-minutes", "0"]
_LOGS = ("log.txt", "metrics.jsonl", ".selfcluster.lock")
"""Files that grow as long as there is room."""


@contextmanager
def small_disk(mib: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def digests(folder: Path) -> dict[str, str]:
    """Return a digest of every file, without the logs."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (*_LOGS, "filler")]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fill(disk: Path, kib: int) -> None:
    """Leave this much free."""
    file, free = disk / "filler", shutil.disk_usage(disk).free - 1024 * kib
    with file.open("wb") as f:
        os.posix_fallocate(f.fileno(), 0, max(1, free))


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*_PROGRAM, *words], capture_output=True, text=True, env={**os.environ, **environment})


def tried(disk: Path, whole: Path, words: list[str], kib: int) -> dict[str, Any]:
    """Run a command with this much free, and again with enough."""
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(whole, disk / "run")
    before = digests(disk)
    fill(disk, kib)
    done, wrong = run(words), []
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        if done.returncode != 2 or len(lines) != 1 or "Traceback" in done.stderr:
            wrong.append(f"status {done.returncode}: {done.stderr[-400:]}")
        after = digests(disk)
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        if words[0] in ("train", "explore"):  # what a new run has begun with, and checkpoints that had room, are whole and kept
            begun = ("new/", "explored/", "run/checkpoints/", "run/config.toml")
            changed = [name for name in changed if ".partial" in name or not name.startswith(begun)]
        if changed:
            wrong.append(f"changed: {sorted(changed)[:5]}")
        if "--copy-to" in words:  # the clusters are whole, and new
            wrong = [] if set(changed) <= {"run/clusters.parquet", "run/clusters.safetensors"} else wrong
    (disk / "filler").unlink()
    if (
        done.returncode
        and (
            again := run([*words, *(["--overwrite"] if "--overwrite" not in words and words[0] in ("embed", "export") else [])])
        ).returncode
    ):
        wrong.append(f"fails with room: {again.stderr[-400:]}")
    said = next((line for line in done.stderr.splitlines() if "error" in line), "")
    return {"command": words[0], "free_kib": kib, "status": done.returncode, "wrong": wrong, "said": said.replace(str(disk), "DISK")}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--mib", type=int, default=48)
    a = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name, small_disk(a.mib) as disk:
        whole, images = Path(name) / "run", Path(name) / "images.npy"
        np.save(images, np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8))
        begun = ["train", str(images), "--out", str(whole), *_SETTINGS, "--n-prototypes", "8", "--batch", "32", "--on-collapse", "warn"]
        if (done := run(begun)).returncode:
            raise RuntimeError(done.stderr)
        if (done := run(["cluster", str(whole)])).returncode:
            raise RuntimeError(done.stderr)
        place = str(disk / "run")
        commands = [
            [
                "train",
                str(images),
                "--out",
                str(disk / "new"),
                *_SETTINGS,
                "--n-prototypes",
                "8",
                "--batch",
                "32",
                "--on-collapse",
                "warn",
                "--resume",
                "auto",
            ],
            ["train", "--resume", "--out", place, "--epochs", "4"],
            ["embed", place, "--out", str(disk / "embeddings.parquet")],
            ["cluster", place, "--k", "5", "--out", str(disk / "table.csv"), "--overwrite"],
            ["cluster", place, "--k", "5", "--copy-to", str(disk / "sorted")],
            ["report", place],
            ["evaluate", place, "--no-baselines"],
            ["export", place, "--format", "timm", "--out", str(disk / "timm")],
            ["export", place, "--format", "whole", "--out", str(disk / "whole")],
            ["explore", str(images), "--out", str(disk / "explored"), "--overwrite"],
        ]
        for words in commands:
            for kib in _FREE:
                rows.append(tried(disk, whole, words, kib))
                print({key: value for key, value in rows[-1].items() if value or key == "status"}, flush=True)
    figures = {"trials": len(rows), "failed_as_they_should": sum(row["status"] == 2 and not row["wrong"] for row in rows)}
    figures |= {"had_room": sum(row["status"] == 0 for row in rows), "wrong": sum(bool(row["wrong"]) for row in rows)}
    print(figures, f"-> {record('faults-disk-full', {**figures, 'rows': rows}).name}")


if __name__ == "__main__":
    main()
