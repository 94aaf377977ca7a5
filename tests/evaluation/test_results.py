"""Evaluation results: tables and the file."""

from __future__ import annotations

import json
from pathlib import Path

from selfcluster.evaluation.metric_titles import KNN, METRIC_TITLES
from selfcluster.evaluation.results import WIDTH, Evaluation, file_for

NAMES = ("raw pixels", "encoder before training", "resnet50.a1_in1k, untrained", "trained encoder")


def _full() -> dict[str, dict[str, float]]:
    values = dict.fromkeys([f"{KNN}20", f"{KNN}137", *METRIC_TITLES], 0.1234)
    values |= {f"{metric}_se": 0.0123 for metric in values if not metric.startswith("collapse/")}
    return {name: dict(values) for name in NAMES}


def test_tables_show_every_metric_within_the_width(tmp_path: Path) -> None:
    figures = _full()
    del figures["raw pixels"]["eval/finetune_1_top1"]
    text = str(Evaluation(figures, ("a note of many words " * 20,), tmp_path / "x.json"))
    assert max(map(len, text.splitlines())) <= WIDTH
    for title in ("kNN k=20", "kNN k=137", "10 % of labels", "purity, %", "AMI", "overlap, %", "used, %"):
        assert title in text
    assert "12.3 ± 1.2" in text
    assert "0.123 ± 0.012" in text
    row = next(line for line in text.splitlines() if line.startswith("raw pixels") and " - " in f"{line} ")
    assert "±" in row, "what one representation lacks is a dash, and the others keep their columns"


def test_columns_without_a_value_are_not_shown(tmp_path: Path) -> None:
    text = str(Evaluation({"raw pixels": {"collapse/rankme": 7.0, "eval/linear_strength": 0.1}}, (), tmp_path / "x.json"))
    assert text.split() == ["without", "labels", "rank", "raw", "pixels", "7.0"]


def test_results_of_the_same_images_and_run_are_merged_and_others_replaced(tmp_path: Path) -> None:
    file, of = tmp_path / "evaluation.json", {"data": "/a", "step": 3}
    Evaluation({"raw pixels": {"a": 1.0, "b": 1.0}, "other": {"a": 5.0}}, ("first",), file, of).save()
    kept = Evaluation({"raw pixels": {"b": 2.0}, "trained encoder": {"b": 3.0}}, ("second",), file, of).save()
    assert kept.figures == {"raw pixels": {"a": 1.0, "b": 2.0}, "trained encoder": {"b": 3.0}, "other": {"a": 5.0}}
    assert kept.notes == ("second", "first")
    assert json.loads(file.read_text())["figures"] == kept.figures
    later = Evaluation({"raw pixels": {"b": 9.0}}, (), file, {"data": "/a", "step": 4}).save()
    assert later.figures == json.loads(file.read_text())["figures"] == {"raw pixels": {"b": 9.0}}


def test_a_file_of_another_version_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "evaluation.json"
    for content in ('{"figures": {"raw pixels": {"a": 1}}, "notes": []}', "no JSON", "[]"):
        file.write_text(content)
        Evaluation({"raw pixels": {"b": 2.0}}, (), file, {"data": "/a"}).save()
        assert json.loads(file.read_text()) == {"figures": {"raw pixels": {"b": 2.0}}, "notes": [], "of": {"data": "/a"}}


def test_other_data_have_other_files(tmp_path: Path) -> None:
    assert file_for(tmp_path, "photos", {"data": "/a/photos"}, is_own=True) == tmp_path / "evaluation.json"
    first = file_for(tmp_path, "my photos/2", {"data": "/a"}, is_own=False)
    assert first.name == "evaluation-my-photos-2.json"
    Evaluation({}, (), first, {"data": "/a"}).save()
    assert file_for(tmp_path, "my photos/2", {"data": "/a"}, is_own=False) == first
    assert file_for(tmp_path, "my photos/2", {"data": "/b"}, is_own=False).name == "evaluation-my-photos-2-2.json"
    assert file_for(tmp_path, "..", {"data": "/c"}, is_own=False).name == "evaluation-data.json"
