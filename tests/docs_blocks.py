"""The commands and code of the docs are run, page by page, on a few small photos: `make docs-test`. CONTRIBUTING.md describes the marks.

A training that sets no number of steps gets a few, and a fine-tuning a few seconds; everything else is run as it stands.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from selfcluster.cli import main
from selfcluster.methods import METHODS
from selfcluster.settings.config import METHOD_SETTINGS
from tests import tiny
from tests.markdown import PAGES, Block, blocks, name_of

BLOCKS = [(page, block) for page in PAGES for block in blocks(page)]
_RUN = re.compile(r"runs/photos-([\w-]+)-1\b")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a home with the images and tables that pages may name; undo the registration of methods by a page."""
    images = [Image.fromarray(image) for image in tiny.images(72, pixels=40)]
    folders = {"photos": images[:60], "new-photos": images[60:]}
    for name in ("labelled", "train", "val"):
        folders |= {f"{name}/a": images[:30], f"{name}/b": images[30:60]}
    for name, some in folders.items():
        (tmp_path / name).mkdir(parents=True)
        for i, image in enumerate(some):
            image.save(tmp_path / name / f"{i:02}.png")
    _pack(sorted((tmp_path / "photos").iterdir()), tmp_path / "shards", tmp_path / "photos.parquet")
    _write(tmp_path / "labels.csv", [("path", "label"), *((f"{i:02}.png", "ab"[i % 2]) for i in range(60))])
    (tmp_path / "Downloads").mkdir()
    for name in ("names.csv", "Downloads/photos-explore-1-names.csv"):
        _write(tmp_path / name, [("cluster", "name"), ("0", "first"), ("1", "second")])
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    before = [dict(METHODS), dict(METHOD_SETTINGS)]
    yield tmp_path
    for names, kept in zip((METHODS, METHOD_SETTINGS), before, strict=True):
        names.clear()
        names.update(kept)


def _pack(files: list[Path], shards: Path, parquet: Path) -> None:
    """Write the images into ten tars, and into one parquet file."""
    shards.mkdir()
    for i in range(10):
        with tarfile.open(shards / f"train-{i:06}.tar", "w") as archive:
            for file in files[i::10]:
                archive.add(file, file.name)
    pq.write_table(pa.table({"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files]}), parquet)


def _write(file: Path, rows: list[tuple[str, ...]]) -> None:
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.is_run for block in blocks(page))], ids=name_of)
def test_blocks_run(page: Path, folder: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(page):
        if not block.is_run:
            continue
        if block.language == "python":
            _provide_runs(block.code)
            exec(compile("\n" * block.line + block.code, page, "exec"), names)
            continue
        *first, last = block.commands
        statuses = [*((command, 0) for command in first), (last, block.exit_status)]
        for command, status in statuses:
            assert _run(command) == status, f"{page.name}:{block.line}: {command}"


@pytest.mark.parametrize(("page", "block"), [pair for pair in BLOCKS if pair[1].not_run], ids=lambda part: getattr(part, "name", ""))
def test_blocks_that_are_not_run(page: Path, block: Block) -> None:
    pytest.skip(f"{name_of(page)}:{block.line}: {block.not_run}")


def _run(command: str) -> int:
    """Run a command, and return its exit status."""
    program, *words = shlex.split(command, comments=True)
    if program == "pip":
        return 0
    if program != "selfcluster":
        return subprocess.run(["bash", "-c", command]).returncode
    makes_run = words[0] in ("train", "explore") and not ("--resume" in words and "auto" not in words)
    _provide_runs(" ".join(word for before, word in zip(["", *words], words, strict=False) if not (makes_run and before == "--out")))
    if words[0] == "train" and makes_run and not {"--max-steps", "--dry-run"} & set(words):
        words += ["--max-steps", "6"]
    if "--finetune" in words and "--finetune-minutes" not in words:
        words += ["--finetune-minutes", "0.05"]
    try:
        main(words)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def _provide_runs(text: str) -> None:
    """Make the runs that a text names and that are not there."""
    for match in _RUN.finditer(text):
        method = match[1]
        if not Path(match[0]).exists():
            make = "explore photos/" if method == "explore" else f"train photos/ --method {method}"
            assert _run(f"selfcluster {make} --out {match[0]}") == 0
            if method != "explore":
                assert _run(f"selfcluster cluster {match[0]} --k 20") == 0
