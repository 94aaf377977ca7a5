"""Mistyped paths are reported without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selfcluster.errors import DataError
from selfcluster.paths import check_images, is_pattern, split_column

_WITHOUT_TORCH = """
import sys
sys.modules.update(torch=None, timm=None, numpy=None)
from selfcluster.cli import main
main(sys.argv[1:])
"""

NO_DATA = "no file, folder or data set '/no/such'; data sets: digits, cifar10, cifar100, stl10, fashion-mnist, imagenette"
NO_RUN = "'/no/such' is not a run folder: it has no config.toml"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explore", "/no/such"], NO_DATA),
        (["train", "/no/such", "--dry-run"], NO_DATA),
        (["cluster", "/no/such"], NO_RUN),
        (["evaluate", "RUN", "/no/such"], NO_DATA),
        (["evaluate", "RUN", "--test", "/no/such"], NO_DATA),
        (["train", "--resume", "--out", "/no/such"], NO_RUN),
        (["import", "/no/such"], "no file '/no/such'; name a checkpoint of the original SwAV or DeepCluster-v2"),
        (["assign", "RUN", "digitz"], "no file, folder or data set 'digitz'; did you mean 'digits'?"),
    ],
)
def test_a_typo_is_reported_without_torch(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    arguments = [str(tmp_path) if word == "RUN" else word for word in words]
    done = subprocess.run([sys.executable, "-c", _WITHOUT_TORCH, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (2, f"selfcluster: error: {message}\n", "")


def test_what_can_be_images_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "a#b").mkdir()
    (tmp_path / "c.parquet").touch()
    for given in (tmp_path, tmp_path / "a#b", tmp_path / "c.parquet", f"{tmp_path}/c.parquet#image", f"{tmp_path}/*.tar", "cifar10"):
        check_images(str(given))
    with pytest.raises(DataError, match="no file, folder or data set"):
        check_images(f"{tmp_path}/b#image")


def test_patterns() -> None:
    assert all(is_pattern(given) for given in ("*.tar", "x?.tar", "x[1].tar", "{1..2}.tar"))
    assert not is_pattern("photos/x.tar")


def test_the_column_is_what_follows_the_last_sign(tmp_path: Path) -> None:
    (tmp_path / "a#b").mkdir()
    assert split_column(f"{tmp_path}/a#b") == (f"{tmp_path}/a#b", "")
    assert split_column(f"{tmp_path}/a#b#image") == (f"{tmp_path}/a#b", "image")
    assert split_column("photos") == ("photos", "")
