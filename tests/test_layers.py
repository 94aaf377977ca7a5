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
        "evaluation",
        "exporters",
        "formatting",
        "inference",
        "methods.losses",
        "optim",
        "randomness",
        "reporting",
        "reporting.galleries",
        "reporting.metrics_table",
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
        "evaluation.standard_errors",
        "models.batch_norm",
        "runs.atomic",
        "settings.config",
    ],
    [
        "clustering.kmeans",
        "data.readers.images",
        "device",
        "evaluation.knn",
        "evaluation.results",
        "evaluation.retrieval",
        "models.model",
        "reporting.curves",
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
        "evaluation.clusters",
        "evaluation.label_free",
        "reporting.page",
        "reporting.verdict",
        "runs.checkpoint",
        "settings.resolve",
    ],
    [
        "data.inspect",
        "data.loader",
        "data.readers.datasets",
        "evaluation.linear",
        "inference.cluster_folders",
        "models.encoders",
        "models.features",
        "reporting.prototypes",
        "reporting.thumbnails",
        "runs.weights",
    ],
    ["data.sources", "evaluation.finetune", "methods.base", "methods.memory", "models", "reporting.payload"],
    ["methods.pseudo_labels", "methods.swav", "reporting.render", "training.collapse"],
    ["methods.bank", "methods.deepcluster"],
    ["methods.deepcluster_v2", "methods.sela_v2"],
    ["methods"],
    ["exporters.verification", "runs.folder", "training.state"],
    [
        "exporters.model_card",
        "exporters.onnx_graph",
        "exporters.timm_folder",
        "exporters.torchvision_weights",
        "runs.run",
        "training.extraction",
        "training.step",
    ],
    [
        "evaluation.protocol",
        "evaluation.representations",
        "exporters.hub",
        "exporters.run_folder",
        "inference.clusters",
        "inference.embeddings",
        "runs.convert",
        "training.budget",
        "training.loop",
    ],
    ["evaluation.suite", "exporters.export", "reporting.report", "training.train"],
    ["api", "evaluation.evaluate"],
    ["cli", "estimators"],
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
