"""The doctor says what is here, and finds what does not work."""

from __future__ import annotations

import pytest

import selfcluster as sc
from selfcluster import doctor
from selfcluster.cli import main


def test_it_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--quick"])
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"selfcluster", "versions", "device", "extras", "encoders"} < set(said)
    assert f"torch {doctor._version('torch')}" in said["versions"]
    assert "patches" in said["encoders"]
    assert doctor._version("no such package") == "?"


def test_a_missing_extra_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_EXTRAS", {"onnx": ("no_such_module",), "heif": ("PIL",)})
    assert dict(doctor.describe())["extras"] == "heif; missing: onnx (pip install 'selfcluster[onnx]')"


def test_a_small_run_of_each_kind_shows_whether_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_IMAGES", 150)
    monkeypatch.setattr(doctor, "_SECONDS", 2)
    said: list[str] = []
    doctor.check(said.append)
    assert said[0].startswith("explore: 150 digits in ")
    assert said[1].startswith("train: ")
    assert said[2] == "all well"
    monkeypatch.setattr(doctor, "_LEAST", 1.1)
    with pytest.raises(sc.SelfclusterError, match="learns nothing; please report"):
        doctor.check(said.append)
