"""The order of the house: a module imports only from rows above its own; siblings in a family never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import selfcluster

ROOT = Path(selfcluster.__file__).parent

ROWS = [
    [
        "batch",
        "clustering",
        "clustering.duplicates",
        "clustering.metrics",
        "clustering.neighbors",
        "distributed",
        "errors",
        "formatting",
        "losses",
        "open_files",
        "optim",
        "pixels",
        "randomness",
        "report.evaluated",
        "report.galleries",
        "settings",
    ],
    [
        "checkpoint",
        "clustering.blocks",
        "clustering.outliers",
        "clustering.projection",
        "clustering.sinkhorn",
        "clustering.whitening",
        "decoding",
        "evaluate.bootstrap",
        "evaluate.subsets",
        "memory",
        "methods.labels",
        "model",
        "settings.config",
        "tar_members",
        "unpacked",
    ],
    [
        "clustering.kmeans",
        "device",
        "evaluate.evaluation",
        "evaluate.knn",
        "evaluate.linear",
        "evaluate.retrieval",
        "health",
        "images",
        "initial",
        "log",
        "methods.base",
        "report.curves",
        "settings.commands",
        "settings.presets",
        "settings.toml",
        "settings.validation",
    ],
    [
        "cache",
        "clustering.n_clusters",
        "crops",
        "estimator",
        "evaluate.clusters",
        "evaluate.label_free",
        "methods.banked",
        "methods.swav",
        "named_sets",
        "parquet",
        "report.page",
        "report.verdict",
        "shards",
        "sorting",
    ],
    [
        "encoders",
        "features",
        "loader",
        "methods.deepcluster_v2",
        "methods.sela_v2",
        "packed",
        "report.prototypes",
        "report.thumbnails",
        "settings.recipe",
    ],
    ["data", "evaluate.finetune", "methods.deepcluster", "report.content", "settings.resolve"],
    ["methods", "report.build"],
    ["training"],
    ["accumulate", "export.network", "extraction", "folder"],
    ["cost", "export.card", "export.onnx_graph", "export.timm_folder", "export.torchvision_weights", "loop", "opened"],
    ["capacity", "embeddings", "export.hub", "export.whole"],
    ["clusters", "export"],
    ["report"],
    ["run"],
    ["evaluate.parts", "evaluate.representations", "learner", "originals"],
    ["evaluate.measured"],
    ["evaluate"],
    ["demo"],
    ["cli"],
    ["__main__"],
]
PLACE = {module: row for row, modules in enumerate(ROWS) for module in modules}


def _name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(file): file for file in ROOT.rglob("*.py") if _name(file)}


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfcluster"):
            base = node.module.removeprefix("selfcluster").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else base)
    return found - {""}


def test_every_module_has_its_place() -> None:
    assert set(PLACE) == set(MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_up_only(module: str) -> None:
    for other in _imports(MODULES[module]):
        assert PLACE[other] < PLACE[module], f"{module} imports {other}, which stands beside or below it"


def test_config_and_errors_need_no_torch() -> None:
    for module in ("settings.config", "settings.validation", "settings.commands", "errors", "settings.toml", "cli"):
        tree = ast.parse(MODULES[module].read_text())
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {alias.name for n in top if isinstance(n, ast.Import) for alias in n.names} | {
            n.module for n in top if isinstance(n, ast.ImportFrom)
        }
        assert not any((name or "").split(".")[0] in ("torch", "numpy", "timm") for name in names)
