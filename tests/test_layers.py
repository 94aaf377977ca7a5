"""The order of the house: a module imports only from rows above its own; siblings in a family never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import selfcluster

ROOT = Path(selfcluster.__file__).parent

ROWS = [
    [
        "clustering",
        "clustering.duplicates",
        "clustering.metrics",
        "clustering.neighbors",
        "data",
        "data.augment",
        "data.readers",
        "data.readers.files",
        "distributed",
        "errors",
        "formatting",
        "methods.losses",
        "optim",
        "randomness",
        "report.evaluated",
        "report.galleries",
        "runs",
        "settings",
        "training",
    ],
    [
        "clustering.blocks",
        "clustering.outliers",
        "clustering.projection",
        "clustering.sinkhorn",
        "clustering.whitening",
        "data.readers.decoding",
        "data.readers.labels",
        "evaluate.bootstrap",
        "models.batch_norm",
        "runs.atomic",
        "settings.config",
    ],
    [
        "clustering.kmeans",
        "data.readers.images",
        "device",
        "evaluate.evaluation",
        "evaluate.knn",
        "evaluate.retrieval",
        "models.model",
        "report.curves",
        "runs.log",
        "settings.commands",
        "settings.presets",
        "settings.recipe",
        "settings.toml",
        "settings.validation",
    ],
    [
        "clustering.n_clusters",
        "data.crops",
        "data.readers.cache",
        "data.readers.folder",
        "data.readers.parquet",
        "data.readers.tar",
        "data.splits",
        "estimator",
        "evaluate.clusters",
        "evaluate.label_free",
        "report.page",
        "report.verdict",
        "runs.checkpoint",
        "settings.resolve",
    ],
    [
        "data.inspect",
        "data.loader",
        "data.readers.datasets",
        "evaluate.linear",
        "models.encoders",
        "models.features",
        "report.prototypes",
        "report.thumbnails",
        "runs.weights",
        "sorting",
    ],
    ["data.sources", "evaluate.finetune", "methods.base", "methods.memory", "models", "report.content"],
    ["methods.pseudo_labels", "methods.swav", "report.build", "training.collapse"],
    ["methods.bank", "methods.deepcluster"],
    ["methods.deepcluster_v2", "methods.sela_v2"],
    ["methods"],
    ["export.network", "runs.folder", "training.state"],
    [
        "export.card",
        "export.onnx_graph",
        "export.timm_folder",
        "export.torchvision_weights",
        "runs.run",
        "training.extraction",
        "training.step",
    ],
    [
        "clusters",
        "embeddings",
        "evaluate.parts",
        "evaluate.representations",
        "export.hub",
        "export.whole",
        "runs.convert",
        "training.budget",
        "training.loop",
    ],
    ["evaluate.measured", "export", "report", "training.train"],
    ["api", "evaluate"],
    ["demo", "learner"],
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
