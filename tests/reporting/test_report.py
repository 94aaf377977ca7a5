"""From a run to its page, in Python and on the command line."""

from __future__ import annotations

import json
import os
import re
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import selfcluster as sc
from selfcluster.cli import main
from selfcluster.reporting import report
from selfcluster.reporting.page import Limits
from selfcluster.reporting.render import build, script_text, style_text
from selfcluster.settings.config import default_config, flatten
from selfcluster.settings.toml import read_toml
from tests import pages, tiny

FAST: dict[str, Any] = {**tiny.SETTINGS, "epochs": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    tiny.folder_of_images(folder, n=36, broken=(7,))
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    return sc.train(str(photos), out=tmp_path_factory.mktemp("runs") / "run", **FAST)


def _text(page: str) -> str:
    """Return the text that is visible without a script."""
    body = re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def _content(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_run_has_a_page(run: sc.Run) -> None:
    file = run.report(k=4)
    assert file == run.path / "report.html"
    page = file.read_text("utf-8")
    text = _text(page)
    assert "35 images in 4 clusters" in text
    assert "run: SwAV with resnet10_small_quarter_s2" in text
    assert "1 image could not be read." in text
    assert "007.png" in text
    assert "Loss" in text
    assert "ln K" in text
    assert f"All {len(read_toml(run.path / 'config.toml').settings)} settings" in text
    assert "Not evaluated yet." in text
    content = _content(page)
    assert content["name"] == "run"
    assert len(content["paths"]) == 35
    assert 0 < len(content["prototypes"]) <= 8
    _check_prototypes(run, None, page)
    assert [p.name for p in run.path.iterdir() if "partial" in p.name] == []


def test_the_page_is_written_to_out_and_replaces_a_file(run: sc.Run, tmp_path: Path) -> None:
    out = tmp_path / "here.html"
    out.write_text("old")
    assert run.report(out=out, k=4) == out
    assert out.read_text("utf-8").startswith("<!doctype html>")


def test_bad_arguments_are_refused_before_the_work(run: sc.Run, tmp_path: Path) -> None:
    with pytest.raises(sc.ConfigError, match="is a folder; name a file"):
        run.report(out=tmp_path)
    with pytest.raises(sc.ConfigError, match="there is no folder"):
        run.report(out=tmp_path / "no" / "such" / "report.html")
    with pytest.raises(sc.ConfigError, match="k must be at least 2, got 0"):
        run.report(k=0)
    with pytest.raises(sc.ConfigError, match="points 0 must be at least 1"):
        Limits(n_points=0)


def test_a_failure_keeps_the_old_page(run: sc.Run, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    with pytest.raises(sc.DataError, match="fewer than 40 clusters"):
        run.report(out=out, k=40)
    assert out.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_saved_clusters_are_shown(run: sc.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = run.cluster(k=5)
    page = run.report(out=tmp_path / "page.html").read_text("utf-8")
    assert "showing the clusters in" in caplog.text
    assert "35 images in 5 clusters" in _text(page)
    sizes = {summary.cluster: (summary.size, round(summary.cohesion, 3)) for summary in found.summaries}
    assert {c["number"]: (c["size"], round(c["cohesion"], 3)) for c in _content(page)["clusters"]} == sizes
    again = run.report(out=tmp_path / "again.html", k=5, seed=0).read_text("utf-8")
    assert again == page


def test_clusters_of_other_images_are_made_anew_and_leave_the_saved_ones_alone(
    run: sc.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    tiny.folder_of_images(tmp_path / "other", n=20, broken=())
    run.cluster(k=2)
    run.cluster(str(tmp_path / "other"), k=3)
    page = run.report(str(tmp_path / "other"), out=tmp_path / "page.html").read_text("utf-8")
    assert "are of other images; making new ones" in caplog.text
    assert "20 images in" in _text(page)
    table = pq.read_table(run.path / "clusters.parquet")
    assert (len(table), max(table["cluster"].to_pylist())) == (36, 1)
    assert "35 images in 2 clusters" in _text(run.report(out=tmp_path / "page.html").read_text("utf-8"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("clusters.parquet", "no table", "cannot read .*clusters.parquet.*run selfcluster cluster"),
        ("evaluation.json", "{ half", "evaluation.json.* is damaged"),
        ("evaluation.json", "[1]", "evaluation.json.* is damaged: expected an object, found a list; delete it"),
    ],
)
def test_a_damaged_file_is_named(name: str, text: str, message: str, run: sc.Run, tmp_path: Path) -> None:
    run.cluster(k=4)
    kept = run.path / "clusters.parquet"
    whole = kept.read_bytes()
    try:
        (run.path / name).write_text(text)
        with pytest.raises(sc.CheckpointError, match=message):
            run.report(out=tmp_path / "page.html")
    finally:
        (run.path / name).unlink()
        kept.write_bytes(whole)


def test_an_evaluation_is_on_the_page(run: sc.Run, tmp_path: Path) -> None:
    figures = {"raw pixels": {"eval/knn_top1_k20": 0.25}, "trained encoder": {"eval/knn_top1_k20": 0.5}}
    file = run.path / "evaluation.json"
    try:
        file.write_text(json.dumps({"figures": figures, "notes": ["clusters of all 36 images"]}))
        text = _text(run.report(out=tmp_path / "page.html", k=4).read_text("utf-8"))
        assert "Nearest neighbors, k = 20 25.0 % 50.0 %" in text
        assert "clusters of all 36 images" in text
    finally:
        file.unlink()


def test_the_evaluation_is_that_of_the_images(run: sc.Run, tmp_path: Path) -> None:
    other = tiny.folder_of_images(tmp_path, n=5, broken=())
    array = tiny.data(5)
    files = {run.path / "evaluation-a.json": other.where, run.path / "evaluation-b.json": array.images.digest()}
    try:
        for file, images in files.items():
            file.write_text(json.dumps({"figures": {images: {}}, "of": {"data": images}}))
        for data in (other, array):
            content = report._evaluation(run.opened, data)
            assert content is not None
            assert list(content["figures"]) == [data.where or data.images.digest()]
        assert report._evaluation(run.opened, tiny.data(6)) is None
        assert report._evaluation(run.opened, run.opened.data()) is None
        (run.path / "evaluation.json").write_text(json.dumps({"figures": {"own": {}}}))
        assert report._evaluation(run.opened, run.opened.data()) == {"figures": {"own": {}}}
    finally:
        for file in (*files, run.path / "evaluation.json"):
            file.unlink(missing_ok=True)


def test_another_folder_can_be_shown(run: sc.Run, tmp_path: Path) -> None:
    run.cluster(k=4)
    kept = (run.path / "clusters.parquet").read_bytes()
    (tmp_path / "other").mkdir()
    tiny.folder_of_images(tmp_path / "other", n=20, broken=())
    page = run.report(str(tmp_path / "other"), out=tmp_path / "page.html", k=3).read_text("utf-8")
    assert "20 images in 3 clusters" in _text(page)
    assert (run.path / "clusters.parquet").read_bytes() == kept, "clusters of the run's own images are kept"


@pytest.mark.parametrize("method", ["deepcluster", "sela-v2"])
def test_every_kind_of_prototype_is_shown(method: str, tmp_path: Path) -> None:
    """After one step on 16 images, since what the prototypes have learned does not matter."""
    images = tiny.images(16)
    config = tiny.config(method, epochs=1, batch=16)
    known = {name: value for name, value in flatten(config).items() if value != flatten(default_config(method))[name]}
    run = sc.train(images, method=method, out=tmp_path / "run", **known)
    page = run.report(images, k=2).read_text("utf-8")
    _check_prototypes(run, images, page)
    assert ("of the first of 3 heads" in _text(page)) == (method == "sela-v2")


def _check_prototypes(run: sc.Run, images: Any, page: str) -> None:
    """The first image of a prototype is the nearest to it by the run's own embeddings."""
    z = torch.from_numpy(run.embed(images, layer="head"))
    scores = run.model.prototypes(z)[0].detach()
    readable = torch.isfinite(scores[:, 0])
    prototypes = _content(page)["prototypes"]
    assert sum(prototype["n"] for prototype in prototypes) == int(readable.sum())
    for prototype in prototypes:
        of_one = scores[readable, prototype["number"]]
        assert of_one[prototype["points"][0]] == pytest.approx(float(of_one.max()), abs=1e-5)


def test_style_and_script_are_those_of_the_policy() -> None:
    import base64
    import hashlib

    page = build(pages.page(tiny.data().images)).decode()
    policy = unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1])  # type: ignore[index]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, text in (("style", style_text()), ("script", script_text())):
        assert f"<{tag}>{text}</{tag}>" in page
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        # A closing tag inside would end the element early.
        assert f"</{tag}" not in text
    assert not re.search(r"\sstyle=|\son\w+=", re.sub(r"<(style|script)\b.*?</\1>", "", page, flags=re.DOTALL))
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_a_sample_is_announced() -> None:
    page = build(pages.page(tiny.data(100).images, limits=Limits(n_points=60, n_large=20))).decode()
    assert "The page shows 60 images: a random sample and all galleries." in _text(page)


def test_names_cannot_end_the_script() -> None:
    name = "</script><script>alert(1)</script> \u2028 & <!-- é"
    text = build(pages.page(tiny.data().images, name=name)).decode()
    assert _content(text)["name"] == name
    assert "alert(1)</script>" not in text


def test_names_that_are_not_text_are_escaped(tmp_path: Path) -> None:
    if os.name != "posix":
        pytest.skip("file names are text on this system")
    made = build(pages.page(tiny.data().images, name=os.fsdecode(b"run-\xff")))
    assert "run-\\udcff" in made.decode("utf-8")
    assert _content(made.decode())["name"] == "run-\udcff"


def test_the_command_line_writes_the_page(run: sc.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run.path), "--out", str(tmp_path / "page.html"), "--k", "3", "--device", "cpu"])
    out = capsys.readouterr().out
    assert re.search(r"page\.html: 0\.\d MB\nnext, in a browser: file:///.*page\.html", out)
    assert "35 images in 3 clusters" in _text((tmp_path / "page.html").read_text("utf-8"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such/run"], "is not a run folder"),
        (["RUN", "--point", "3"], "did you mean '--points'?"),
        (["RUN", "--points", "0"], "points 0 must be at least 1"),
        (["RUN", "--k", "-2"], "k must be at least 2, got -2"),
        (["RUN", "--out", "/no/such/folder/x.html"], "there is no folder"),
        (["RUN", "/no/such/data"], "no file, folder or data set '/no/such/data'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], message: str, run: sc.Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["report", *(str(run.path) if a == "RUN" else a for a in arguments)])
    assert leaving.value.code == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert said.count("\n") == 0
