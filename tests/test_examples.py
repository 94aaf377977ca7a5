"""Every example runs, on few images."""

from __future__ import annotations

import ast
import json
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfcluster as sc
from tests import tiny

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run an example as a command would, and return its names."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run_example(name: str, *arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    return run_example


def test_every_example_is_listed_and_says_how_to_run_it() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f"[{file.name}]({file.name})" in listed
        assert f"\n    python examples/{file.name}" in (ast.get_docstring(ast.parse(file.read_text())) or "")
    assert "[first_look.ipynb](first_look.ipynb)" in listed


def test_own_loop(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("own_loop.py", "--epochs", "1", "--images", "130")
    assert "10 clusters of features: matched accuracy" in capsys.readouterr().out
    torch.testing.assert_close(names["prototypes"].norm(dim=1), torch.ones(30))


def test_sklearn_pipeline(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("sklearn_pipeline.py", "--epochs", "1", "--images", "60")
    assert capsys.readouterr().out.count("%") == 6


def test_custom_encoder(run: Run, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny.images())
    names = run("custom_encoder.py", str(tmp_path / "images.npy"), "--epochs", "1")
    assert names["features"].shape == (36, 128)


def test_custom_data_source(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    names = run("custom_data_source.py", "--images", "60")
    assert sorted(number for number, _ in names["found"]) == [1000 + 7 * i for i in range(60)]
    assert "cluster 0: " in capsys.readouterr().out


def test_name_and_export_classifier(run: Run) -> None:
    pytest.importorskip("onnxruntime")
    names = run("name_and_export_classifier.py", "--images", "120")
    table = names["run"].assign([names["new"]]).table
    assert names["name"] == table["name"][0].as_py()
    assert len(names["clusters"].summaries) <= 10


def test_swav_in_one_file(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """It computes the codes, the loss and the updates of the package."""
    names = run("swav_in_one_file.py", "--epochs", "1")
    assert "selfcluster" not in (EXAMPLES / "swav_in_one_file.py").read_text().split('"""')[2]
    assert "by the trained network: " in capsys.readouterr().out
    scores, tau, epsilon = names["scores"].detach(), names["tau"], names["epsilon"]
    codes = torch.stack([sc.sinkhorn(of_crop, epsilon=epsilon) for of_crop in scores[:2]])
    torch.testing.assert_close(names["q"], codes, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(names["loss"].detach(), sc.swapped_loss(scores, codes, temperature=tau), rtol=1e-4, atol=1e-5)
    p = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    p.grad = torch.tensor([0.6, 0.8])
    lars = names["LARS"]([p])
    lars.param_groups[0]["lr"] = 4.8
    for expected in ([2.985600000, 3.980800000], [2.958309120, 3.944412161], [2.919547445, 3.892729927]):
        lars.step()
        torch.testing.assert_close(p.detach(), torch.tensor(expected))


def test_first_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for needed in ("ipykernel", "matplotlib"):
        pytest.importorskip(needed)
    notebook = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs before committing"
    monkeypatch.setenv("N_IMAGES", "60")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert "trained encoder" in json.dumps(notebook)
