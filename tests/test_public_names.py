"""The public names; torch is imported only when needed."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import selfcluster

ROOT = Path(selfcluster.__file__).parent


def test_the_public_names_are_exactly_these() -> None:
    names = (
        "CheckpointError ClusterLearner CollapseError Config ConfigError DataError DivergenceError KMeans MultiCrop Run SelfclusterError "
        "__version__ ami ari explore kmeans load matched_accuracy nmi pseudo_label_loss rankme sinkhorn swapped_loss train"
    )
    assert selfcluster.__all__ == names.split()
    for name in selfcluster.__all__:
        assert getattr(selfcluster, name).__doc__


def test_the_version_is_that_of_the_install() -> None:
    assert selfcluster.__version__ == version("selfcluster")


def test_no_public_name_is_also_a_module() -> None:
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not modules & set(selfcluster.__all__)


def test_import_and_help_load_no_torch() -> None:
    code = (
        "import sys, selfcluster, selfcluster.cli\n"
        "try: selfcluster.cli.main(['train', '--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False False"


def test_what_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(selfcluster, "nonsense")
