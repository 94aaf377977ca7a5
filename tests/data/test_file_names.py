"""Patterns, packed files and splits, by the names of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfcluster.data.file_names import Splits, absolute, files_of, is_packed, splits_among
from selfcluster.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("x-{000..002}.tar", ["x-000.tar", "x-001.tar", "x-002.tar"]),
        ("x-{009..011}.tar", ["x-009.tar", "x-010.tar", "x-011.tar"]),
        ("x-{2..0}.tar", ["x-2.tar", "x-1.tar", "x-0.tar"]),
        ("x-{8..10}.tar", ["x-8.tar", "x-9.tar", "x-10.tar"]),
        ("{a,b c}-{1..2}.tar", ["a-1.tar", "a-2.tar", "b c-1.tar", "b c-2.tar"]),
        ("{x}.tar", ["{x}.tar"]),
    ],
)
def test_braces_expand_to_numbers_and_alternatives(tmp_path: Path, pattern: str, names: list[str]) -> None:
    touch(tmp_path, *names, "other.tar")
    assert files_of(str(tmp_path / pattern)) == (tmp_path, tuple(names))


def test_stars_match_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x-1.tar", "a/x-10.tar", "b/x-2.tar", "b/deep/y.tar", "b/x.parquet")
    monkeypatch.chdir(tmp_path)
    assert files_of("a/*.tar") == (tmp_path / "a", ("x-1.tar", "x-10.tar"))
    assert files_of("*/x-?.tar") == (tmp_path, ("a/x-1.tar", "b/x-2.tar"))
    assert files_of("**/*.tar") == (tmp_path, ("a/x-1.tar", "a/x-10.tar", "b/deep/y.tar", "b/x-2.tar"))
    assert files_of("{a,b}/x-[12].tar") == (tmp_path, ("a/x-1.tar", "b/x-2.tar"))
    assert files_of("{a/x-1,a/*}.tar") == (tmp_path / "a", ("x-1.tar", "x-10.tar")), "each file once"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("x-{1..4}.tar", r"no file '.*x-3\.tar' \(from '.*x-\{1\.\.4\}\.tar'\)"),
        ("y-*.tar", r"no file '.*y-\*\.tar'$"),
        ("x-1.*", r"'.*x-1\.txt' \(from .*\) is neither \.tar nor \.parquet; for single images pass their folder"),
    ],
)
def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path: Path, pattern: str, message: str) -> None:
    touch(tmp_path, "x-1.tar", "x-2.tar", "x-4.tar", "x-1.txt")
    with pytest.raises(DataError, match=message):
        files_of(str(tmp_path / pattern))


def test_a_pattern_means_the_same_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "odd [1]/x-1.tar", "odd 1/x-2.tar", "odd [1]/x-2.tar")
    monkeypatch.chdir(tmp_path / "odd [1]")
    before = files_of("x-*.tar")
    pattern = absolute("x-*.tar")
    monkeypatch.chdir(tmp_path)
    assert files_of(pattern) == before == (tmp_path / "odd [1]", ("x-1.tar", "x-2.tar"))
    assert absolute(pattern) == pattern


def test_packed_files_and_patterns_are_known_by_name() -> None:
    assert all(is_packed(name) for name in ("x.tar", "X.TAR", "x.parquet", "x.tar.gz", "x.tgz", "x.tar.zst"))
    assert not any(is_packed(name) for name in ("x.jpg", "tar", "x.tar.md5", "x.gz", "x.npy"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train-0.tar", "train-1.tar", "val-0.tar"), Splits(("train-0.tar", "train-1.tar"), ("val-0.tar",), "val", ())),
        (
            ("data/test-00000-of-00001.parquet", "data/train-00000-of-00001.parquet"),
            Splits(("data/train-00000-of-00001.parquet",), ("data/test-00000-of-00001.parquet",), "test", ()),
        ),
        (("p_train.tar", "p_val.tar", "p_test.tar", "x.tar"), Splits(("p_train.tar",), ("p_val.tar",), "val", ("p_test.tar", "x.tar"))),
        (("all/train/0.parquet", "all/test/0.parquet"), Splits(("all/train/0.parquet",), ("all/test/0.parquet",), "test", ())),
        (("TRAIN.tar", "Validation.tar"), Splits(("TRAIN.tar",), ("Validation.tar",), "validation", ())),
        (("train-0.tar", "train-1.tar"), None),
        (("val-0.tar", "val-1.tar"), None),
        (("trains-0.tar", "value-1.tar", "x.tar"), None),
    ],
)
def test_splits_are_known_by_name(names: tuple[str, ...], expected: Splits | None) -> None:
    assert splits_among(names) == expected
