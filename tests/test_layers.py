"""Import order: a folder imports only from rows above its own, not from its own row, and no folder has circular imports."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import selfcluster

ROOT = Path(selfcluster.__file__).parent

ROWS = [
    ["errors"],
    ["distributed", "randomness", "optim", "formatting", "temporary", "paths", "hub", "workers", "spreadsheets"],
    ["ranks", "settings"],
    ["device"],
    ["clustering", "data"],
    ["models"],
    ["methods"],
    ["runs"],
    ["training", "inference"],
    ["evaluation", "exporters"],
    ["reporting"],
    ["api", "terminal"],
    ["estimators", "doctor"],
    ["cli"],
    ["__main__"],
]
ROW = {place: number for number, places in enumerate(ROWS) for place in places}

NEED_NO_TORCH = ("errors", "formatting", "paths", "settings", "cli", "__main__")


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(file): file for file in ROOT.rglob("*.py") if _name(file)}


def _place(module: str) -> str:
    return module.partition(".")[0]


def _imports(file: Path) -> set[str]:
    """Return the modules of the package that a file imports, at any level."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfcluster"):
            base = node.module.removeprefix("selfcluster").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else base)
    return found - {""}


def test_every_file_and_folder_has_its_place() -> None:
    assert set(ROW) == {_place(module) for module in MODULES}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_up_only(module: str) -> None:
    for other in _imports(MODULES[module]):
        if _place(other) != _place(module):
            assert ROW[_place(other)] < ROW[_place(module)], f"{module} imports {other}, which is in the same row or below"


@pytest.mark.parametrize("place", sorted({_place(module) for module in MODULES}))
def test_no_folder_has_circular_imports(place: str) -> None:
    inside = {
        module: {other for other in _imports(file) if _place(other) == place} for module, file in MODULES.items() if _place(module) == place
    }
    TopologicalSorter(inside).prepare()


@pytest.mark.parametrize("module", sorted(module for module in MODULES if _place(module) in NEED_NO_TORCH))
def test_the_command_line_needs_no_torch_before_it_works(module: str) -> None:
    for node in ast.parse(MODULES[module].read_text()).body:
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        assert not {name.partition(".")[0] for name in names} & {"torch", "numpy", "timm"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_tests_mirror_the_folders(module: str) -> None:
    """The tests have the same folders as the package."""
    folder = MODULES[module].parent.relative_to(ROOT)
    assert (Path(__file__).parent / folder).is_dir()
