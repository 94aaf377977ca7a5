"""The code in the README and the docs runs, and their tables and names are up to date."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import selfcluster as sc
from selfcluster.errors import Interrupted
from selfcluster.methods import METHODS
from selfcluster.settings.config import METHOD_SETTINGS
from selfcluster.settings.parser import parse, parse_train
from selfcluster.training import loop
from tests import tiny
from tests.markdown import PAGES, ROOT, blocks, name_of


@pytest.fixture
def methods_as_before() -> Iterator[None]:
    """Undo the registration of methods by a page."""
    before = [dict(METHODS), dict(METHOD_SETTINGS)]
    yield
    for names, kept in zip((METHODS, METHOD_SETTINGS), before, strict=True):
        names.clear()
        names.update(kept)


def _python(page: Path) -> list[str]:
    """Return the blocks of Python before the first that needs the run of a command; `make docs-test` runs all."""
    all_blocks = (block.code for block in blocks(page) if block.language == "python" and block.is_run)
    return list(itertools.takewhile(lambda code: "runs/photos-" not in code, all_blocks))


@pytest.mark.parametrize("page", [page for page in PAGES if _python(page)], ids=name_of)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods_as_before: None) -> None:
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(tiny.images(20)):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code in _python(page):
        exec(code, names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_linked_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_added_method_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods_as_before: None) -> None:
    """It trains, resumes bit for bit, clusters, reports and exports like the methods of the package."""
    (block,) = _python(ROOT / "docs" / "adding_a_method.md")
    names: dict[str, Any] = {}
    exec(block.split("run = sc.train")[0], names)
    settings = {**tiny.SETTINGS, "n_prototypes": (8,), "max_steps": 6}
    del settings["freeze_steps"]
    whole = sc.train(tiny.images(), method="online-kmeans", out=tmp_path / "whole", **settings)
    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda t, log, folder: fit(t, log, folder, stop_at=3))
    with pytest.raises(Interrupted):
        sc.train(tiny.images(), method="online-kmeans", out=tmp_path / "cut", **settings)
    monkeypatch.undo()
    resumed = sc.train(tiny.images(), out=tmp_path / "cut", resume=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], weight), name
    assert len(whole.cluster(tiny.images(), k=3).table) == 36
    assert whole.report(tiny.images()).is_file()
    assert "online-kmeans" in (whole.export("hub").path / "README.md").read_text()
    assert [row for row in whole.metrics if "train/loss" in row][-1]["collapse/prototypes_used"] > 1


def test_every_flag_shown_exists(capsys: pytest.CaptureFixture[str]) -> None:
    from selfcluster.cli import _COMMANDS, main

    known = {"--version", "--epoch"}  # results.md times the answer to a wrong flag
    for command in _COMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    for page in PAGES:
        inline = re.findall(r"`([^`\n]*)`", page.read_text())
        lines = [line for block in blocks(page) for line in block.commands] + inline
        shown = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", " ".join(line.partition("selfcluster")[2] for line in lines)))
        assert shown <= known, f"{page.name}: {shown - known}"


def test_every_command_shown_has_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make docs-test` also runs them."""
    from selfcluster.cli import _COMMANDS

    monkeypatch.chdir(tmp_path)
    for page in PAGES:
        for line in (line for block in blocks(page) if block.is_run and not block.exit_status for line in block.commands):
            program, *words = shlex.split(line, comments=True)
            if program == "selfcluster":
                parse_train(words[1:]) if words[0] == "train" else parse(words[0], _COMMANDS[words[0]][0], words[1:])


def test_the_readme_lists_every_module() -> None:
    text = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"`selfcluster/(\w+)(?:/|\.py)`", text[text.index("## Where things are") :]))
    package = ROOT / "selfcluster"
    there = {
        path.stem
        for path in package.iterdir()
        if (path.suffix == ".py" and not path.name.startswith("_")) or (path / "__init__.py").is_file()
    }
    assert shown == there


def test_the_table_of_layers_equals_the_tested_one() -> None:
    from tests.test_layers import ROWS

    rows: dict[int, set[str]] = {}
    for number, places in re.findall(r"^\| (\d+) \| (.*?) \|", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE):
        rows.setdefault(int(number), set()).update(re.findall(r"`(\w+)(?:/|\.py)`", places))
    assert [rows[number] for number in sorted(rows)] == [set(places) for places in ROWS if places != ["__main__"]]


def test_every_public_name_is_in_the_docs() -> None:
    import selfcluster

    text = (ROOT / "docs" / "architecture.md").read_text()
    assert [name for name in selfcluster.__all__ if f"sc.{name}" not in text] == ["__version__"]


def test_tables_are_the_recorded_results() -> None:
    from benchmarks import tables

    text = (ROOT / "README.md").read_text()
    assert tables.readme(text) == text
    assert tables.results() == (ROOT / "docs" / "results.md").read_text()
