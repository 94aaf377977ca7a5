"""The order of the house: a module imports only from rows above its own; siblings in a family never import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import selfcluster

ROOT = Path(selfcluster.__file__).parent

ROWS = [
    ["errors"],
    ["config"],
    ["commands"],
    ["toml"],
    ["allocator"],
    ["distributed"],
    ["randomness"],
    ["batch"],
    ["points"],
    ["sinkhorn", "losses", "metrics", "pixels", "kmeans", "whitening", "neighbours"],
    ["threads"],
    ["decoding"],
    ["images"],
    ["open_files"],
    ["tar_members", "unpacked"],
    ["shards", "parquet"],
    ["packed"],
    ["named_sets", "cache"],
    ["data"],
    ["crops"],
    ["loader", "encoders"],
    ["model"],
    ["checkpoint"],
    ["initial", "memory", "optim"],
    ["features"],
    ["methods.base", "methods.labels"],
    ["methods.banked"],
    ["methods.swav", "methods.deepcluster", "methods.deepcluster_v2", "methods.sela_v2"],
    ["methods"],
    ["recipe"],
    ["presets"],
    ["resolve"],
    ["log"],
    ["health"],
    ["training"],
    ["extraction", "accumulate"],
    ["cost", "loop"],
    ["capacity"],
    ["folder"],
    ["opened"],
    ["embeddings"],
    ["duplicates", "how_many", "maps", "strangers"],
    ["clusters", "sorting"],
    ["export.network", "export.card"],
    ["export.timm_folder", "export.torchvision_weights", "export.onnx_graph", "export.whole"],
    ["export.hub"],
    ["export"],
    ["report.page", "report.thumbnails", "report.galleries", "report.curves", "report.evaluated"],
    ["report.prototypes", "report.verdict", "report.content"],
    ["report.build"],
    ["report"],
    ["run"],
    ["originals", "estimator", "learner"],
    ["evaluate.bootstrap", "evaluate.subsets"],
    ["evaluate.knn", "evaluate.linear", "evaluate.retrieval", "evaluate.clusters", "evaluate.label_free", "evaluate.finetune"],
    ["evaluate.parts", "evaluate.representations", "evaluate.evaluation"],
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
    for module in ("config", "commands", "errors", "toml", "cli"):
        tree = ast.parse(MODULES[module].read_text())
        top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {alias.name for n in top if isinstance(n, ast.Import) for alias in n.names} | {
            n.module for n in top if isinstance(n, ast.ImportFrom)
        }
        assert not any((name or "").split(".")[0] in ("torch", "numpy", "timm") for name in names)
