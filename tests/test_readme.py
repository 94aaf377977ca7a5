"""What the README and the docs show runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(tiny.images(20)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(block, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_every_flag_that_is_shown_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from selfcluster.cli import _COMMANDS, main

    known = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"}
    for command in _COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```|`([^`\n]*)`", page.read_text(), flags=re.DOTALL):
            shown = set(
                re.findall(
                    r"(?<![-\w])--[a-z][a-z-]+", " ".join(line for part in block for line in part.splitlines() if "selfcluster" in line)
                )
            )
            assert shown <= known, f"{page.name}: {shown - known}"


def test_the_map_of_files_is_right() -> None:
    for name in re.findall(r"`((?:selfcluster/)?[\w/]+\.py)`", (ROOT / "README.md").read_text()):
        assert (ROOT / name).exists() or (ROOT / "selfcluster" / name).exists(), name


def test_tables_are_the_recorded_results() -> None:
    from benchmarks import tables

    text = (ROOT / "README.md").read_text()
    assert tables.readme(text) == text
    assert tables.results() == (ROOT / "docs" / "results.md").read_text()
