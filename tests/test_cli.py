"""The command line, from arguments to output and exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import selfcluster as sc
from selfcluster.cli import _COMMANDS, main
from selfcluster.errors import ConfigError
from selfcluster.runs import log
from selfcluster.settings.commands import Cluster, Doctor, Evaluate
from selfcluster.settings.parser import parse, parse_train
from tests import tiny

FAST = [
    "--encoder",
    "resnet10_small_quarter_s2",
    "--crop-pixels",
    "16",
    "8",
    "--batch",
    "8",
    "--n-prototypes",
    "8",
    "--epochs",
    "1",
    "--head-width",
    "16",
    "--device",
    "cpu",
]


def _run(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run() == 0
    out = capsys.readouterr().out
    assert all(command in out for command in _COMMANDS)


@pytest.mark.parametrize("command", list(_COMMANDS))
def test_help_of_each_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(command, "--help") == 0
    assert f"usage: selfcluster {command}" in capsys.readouterr().out


def test_the_most_used_settings_are_short_flat_flags(capsys: pytest.CaptureFixture[str]) -> None:
    _run("train", "--help")
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    wanted = "--method --encoder --init --epochs --max-minutes --batch --n-prototypes --lr --seed --device --preset --config --out --resume --overwrite --labels --dry-run"
    assert flags >= set(wanted.split())


def test_help_says_what_the_recipe_chooses_and_gives_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("train", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: selfcluster train [IMAGES] [options] Train an encoder")
    assert (
        "--lr X Learning rate after warm-up. Paper: 4.8 at batch 4096, 0.6 at batch 256, with LARS; DeepCluster: 0.05. (by the recipe)"
        in text
    )
    assert "--momentum X Momentum of LARS and SGD. Paper: 0.9. (default: 0.9)" in text
    assert text.endswith("example: selfcluster train photos/ --max-minutes 30")
    assert "--top-lr" not in text
    assert _run("train", "--method", "deepcluster", "--help") == 0
    assert "--top-lr X" in capsys.readouterr().out
    assert _run("cluster", "-h") == 0
    assert capsys.readouterr().out.startswith("usage: selfcluster cluster RUN [IMAGES] [options]\n")


def test_arguments_in_any_order_become_typed_fields() -> None:
    parsed = parse_train(["--epochs", "3", "photos", "--area", "0.3", "1", "0.1", "0.4", "--no-compile", "--batch=auto", "--seed", "7"])
    assert (parsed.images, parsed.method) == ("photos", None)
    assert parsed.settings == {"epochs": 3, "area": ((0.3, 1.0), (0.1, 0.4)), "compile": False, "batch": "auto", "seed": 7}
    assert parse_train(["--method", "sela-v2", "--n-prototypes", "30", "40"]).settings == {"n_prototypes": (30, 40)}
    assert parse_train(["--resume", "photos", "--out", "x"]) == parse_train(["photos", "--out", "x", "--resume"])
    assert parse_train(["--resume", "photos"]).resume is True
    assert parse_train(["photos", "--resume", "auto"]).resume == parse_train(["--resume=auto", "photos"]).resume == "auto"
    with pytest.raises(ConfigError, match="--resume 'always' must be"):
        parse_train(["photos", "--resume=always"])
    cluster = parse("cluster", Cluster, ["runs/x", "--k", "auto", "photos", "--seed", "2"])
    assert (cluster.run, cluster.images, cluster.k, cluster.seed, cluster.out) == ("runs/x", "photos", "auto", 2, None)
    assert parse("cluster", Cluster, ["runs/x", "--k", "12"]).k == 12
    assert parse("evaluate", Evaluate, ["runs/x", "--only", "knn", "linear"]).only == ("knn", "linear")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian photos", "unknown command 'trian'; did you mean 'train'?"),
        ("train photos --n-crop 2", "unknown flag '--n-crop'; did you mean '--n-crops'?"),
        ("train photos --lr abc", "--lr 'abc' must be a number"),
        ("train /no/such/folder --augmentation phot", "unknown augmentation 'phot'; did you mean 'photo'?"),
        ("train digits --area 0.1 1 0.2", "--area '0.2' must be 2 numbers"),
        ("train --n-crops 2 photos", "--n-crops 'photos' must be a whole number"),
        (
            "train --n-prototypes 30 photos",
            "--n-prototypes '30 photos' must be a whole number; write positional arguments before the flags",
        ),
        ("train digits --optimizer adam", "unknown --optimizer 'adam'; did you mean 'adamw'?"),
        ("train digits --lr", "argument --lr: expected one argument"),
        ("cluster runs/x --k 2x", "--k '2x' must be a whole number or auto"),
        ("train photos --method dino", "unknown method 'dino'"),
        ("train photos --method deepcluster --epsilon 0.1", "flag --epsilon belongs to swav and sela-v2, not to deepcluster"),
        ("train photos --top-lr 1", "flag --top-lr belongs to deepcluster, not to swav"),
        ("train digits --method deepcluster --head-width 64", "head_width 64 must be 0: DeepCluster has no head"),
        ("train digits --method sela-v2 --n-prototypes 30 5000", "n_prototypes 5,000 is more than the 1,797 images to train on"),
        ("train digits --method swav --preset sela-v2-imagenet", "preset 'sela-v2-imagenet' is for the method 'sela-v2', not 'swav'"),
        ("train", "no data given"),
        ("train /no/such/folder", "no file, folder or data set '/no/such/folder'"),
        ("train digit", "did you mean 'digits'?"),
        ("train a-0.tar a-1.tar", "a pattern of several files goes in quotes, such as 'shards/*.tar'"),
        ("train digits --config /no/file.toml", "No such file"),
        ("train digits --batch 0", "batch 0 must be at least 1"),
        ("train digits --epochs -3", "epochs -3 must be at least 1"),
        ("train digits --max-minutes inf", "max_minutes inf must be finite"),
        ("train digits --seed -1", "seed -1 must be between"),
        ("train --resume --out x --preset swav-imagenet", "leave out --preset, --config, --augmentation and --overwrite"),
        ("train --resume --out x --dry-run", "leave --resume and --from out"),
        ("train --resume --out /no/such/run", "is not a run folder"),
        ("train digits --init pretrained --top-lr 1", "flag --top-lr belongs to deepcluster, not to deepcluster-v2"),
        ("train digits --freeze some", "freeze 'some' must be none, all, but-last, or a number of stages"),
        ("evaluate /no/such/run", "is not a run folder"),
        ("export /no/such/run --format timm", "is not a run folder"),
        ("export /no/such/run", "--format is missing; see selfcluster export --help"),
        ("import /no/such/file.pth", "no file '/no/such/file.pth'"),
        ("evaluate", "RUN is missing; see selfcluster evaluate --help"),
        ("assign runs/x", "IMAGES is missing"),
        ("evaluate runs/x --only knm", "--only"),
        ("evaluate --only knn runs/x", "unknown --only 'runs/x'"),
        ("cluster runs/x --image photos", "unknown flag '--image'"),
        ("cluster runs/x --n-clusters 5", "unknown flag '--n-clusters'; did you mean '--k'?"),
        ("train photos --batch-size 8", "unknown flag '--batch-size'; did you mean '--batch'?"),
        ("train digits --no-compil", "did you mean '--no-compile'?"),
        ("evaluate runs/x --finetun", "unknown flag '--finetun'; did you mean '--finetune'?"),
    ],
)
def test_mistakes_are_one_line_with_status_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.toml").write_text('method = "swav"\n')
    monkeypatch.chdir(tmp_path)
    assert _run(*arguments.split()) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("selfcluster: error: ")
    assert message in said[0]


def test_train_resume_and_evaluate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "toys.npz", images=tiny.images(48), labels=np.arange(48) % 3)
    out = str(tmp_path / "run")
    assert _run("train", str(tmp_path / "toys.npz"), "--out", out, *FAST) == 0
    said = capfd.readouterr()
    assert said.out == f"next: selfcluster evaluate {out}\n"
    assert "n_crops " in said.err
    assert re.search(r"encoder +resnet10_small_quarter_s2 +flag", said.err)
    assert _run("train", str(tmp_path / "toys.npz"), "--out", out, *FAST) == 2
    assert "--resume" in capfd.readouterr().err
    assert _run("train", "--out", out, "--resume", "--lr", "0.123") == 2
    assert "cannot resume with lr 0.123" in capfd.readouterr().err
    assert _run("train", "--out", out, "--resume") == 0
    capfd.readouterr()
    assert _run("evaluate", out, "--device", "cpu") == 0
    table = capfd.readouterr().out
    assert "raw pixels" in table
    assert "trained encoder" in table
    assert table.endswith(f"written: {out}/evaluation.json\nnext: selfcluster report {out}\n")
    assert _run("evaluate", out, "--device", "cpu", "--only", "knn", "label-free", "--beside", out) == 0
    table = capfd.readouterr().out
    assert re.search(r"^run run +\d", table, flags=re.MULTILINE)
    assert "linear" in table, "figures of the same images from before are kept"
    np.save(tmp_path / "others.npy", tiny.images(20, seed=1))
    assert _run("evaluate", out, str(tmp_path / "others.npy"), "--device", "cpu") == 0
    table = capfd.readouterr().out
    assert f"written: {out}/evaluation-others.json\n" in table
    assert "there are no labels: only metrics without labels are computed" in table
    for arguments, message in ((["--only", "knn"], "give --labels FILE.csv"), (["--beside", "resnet1O"], "unknown encoder 'resnet1O'")):
        assert _run("evaluate", out, str(tmp_path / "others.npy"), "--device", "cpu", *arguments) == 2
        assert message in capfd.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("method", ["deepcluster", "deepcluster-v2", "sela-v2"])
def test_every_method_trains_resumes_and_is_evaluated_by_the_same_commands(
    method: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "LINE_SECONDS", 0.0)
    np.savez(tmp_path / "toys.npz", images=tiny.images(48), labels=np.arange(48) % 3)
    flags = [*FAST[:4], *FAST[5:11]] if method == "deepcluster" else [*FAST, "--first-labels", "network"]
    out = str(tmp_path / "run")
    assert _run("train", str(tmp_path / "toys.npz"), "--method", method, "--out", out, *flags, "--device", "cpu") == 0
    said = capfd.readouterr().err
    assert re.search(r"extracting (features|embeddings): 48 of 48 images", said)
    assert re.search(r"epoch 0  clusters: largest \d+\.\d%, sizes \d+ to \d+, 0 empty", said)
    assert _run("train", "--out", out, "--resume", "--method", "swav") == 2
    assert f"cannot resume with method 'swav': this run has '{method}'" in capfd.readouterr().err
    assert _run("train", "--out", out, "--resume", "--kmeans-iterations" if "deep" in method else "--n-prototypes", "7") == 2
    assert re.search(r"cannot resume with \w+ [(]?7", capfd.readouterr().err)
    assert _run("train", "--out", out, "--resume") == 0
    assert _run("evaluate", out, "--device", "cpu") == 0
    assert _run("train", "--config", f"{out}/config.toml", "--out", str(tmp_path / "again")) == 0
    assert f'method = "{method}"' in (tmp_path / "again" / "config.toml").read_text()


def test_a_config_file_of_another_run_can_be_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "toys.npy", tiny.images(48))
    assert _run("train", str(tmp_path / "toys.npy"), "--out", str(tmp_path / "a"), *FAST) == 0
    assert capfd.readouterr().out == f"next: selfcluster report {tmp_path / 'a'}\n", "without labels, there is little to evaluate"
    assert _run("train", "--config", str(tmp_path / "a" / "config.toml"), "--out", str(tmp_path / "b"), "--seed", "1") == 0
    first, second = ((tmp_path / name / "config.toml").read_text() for name in "ab")
    assert "batch = 8  # flag" in first
    assert "batch = 8  # config file" in second
    assert "seed = 1  # flag" in second


def test_batch_auto_finds_one_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--batch", "auto"], ["--batch=auto"]):
        assert _run("train", "digits", *given, "--n-prototypes", "8", "--device", "cpu", "--dry-run") == 0
        assert re.search(r"batch +128 +auto: .* GiB, and 1,797 images are too few for a larger one", capsys.readouterr().err)


def test_collapse_is_status_3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "same.npy", np.full((40, 20, 20, 3), 99, dtype=np.uint8))
    flags = ["--jitter", "0", "--grey", "0", "--flip", "0", "--freeze-steps", "1"]
    status = _run("train", str(tmp_path / "same.npy"), "--out", str(tmp_path / "run"), *FAST, *flags, "--epochs", "45")
    assert status == 3
    assert capfd.readouterr().err.strip().splitlines()[-1].startswith("selfcluster: error: collapsed")


def test_export_and_import(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import torch
    import torchvision

    np.save(tmp_path / "toys.npy", tiny.images(48))
    out = str(tmp_path / "run")
    assert _run("train", str(tmp_path / "toys.npy"), "--out", out, *FAST) == 0
    capfd.readouterr()
    assert _run("export", out, "--format", "whole") == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith(
        f"wrote {out}/export/whole: checkpoints/6/model.safetensors, checkpoints/6/state.json, checkpoints/last.json, config.toml"
    )
    assert said[-1] == f"next, in Python: import selfcluster; run = selfcluster.load('{out}/export/whole')"
    for arguments, message in (
        (("--format", "whole"), "use --overwrite to replace it"),
        (("--format", "onxx"), "did you mean 'onnx'"),
        (("--format", "torchvision"), "its stem is 3 x 3"),
        (("--format", "onnx", "--layer", "heads"), "--layer"),
    ):
        assert _run("export", out, *arguments) == 2
        assert message in capfd.readouterr().err

    weights = {name: tensor for name, tensor in torchvision.models.resnet18().state_dict().items() if not name.startswith("fc.")}
    head = {"0.weight": (8, 512), "0.bias": (8,), "3.weight": (4, 8), "3.bias": (4,)}
    head |= {f"1.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")}
    weights |= {f"projection_head.{name}": torch.ones(shape) for name, shape in head.items()} | {"prototypes.weight": torch.eye(4)}
    torch.save(weights, tmp_path / "swav.pth")
    run = str(tmp_path / "imported")
    assert _run("import", str(tmp_path / "swav.pth"), "--out", run) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0] == f"wrote {run}: swav, resnet18, prototypes 4"
    assert said[-1] == f"next: selfcluster evaluate {run} IMAGES"
    assert _run("import", str(tmp_path / "swav.pth"), "--out", run) == 2
    assert "in use" in capfd.readouterr().err
    assert _run("evaluate", run) == 2
    assert "name the images (IMAGES)" in capfd.readouterr().err
    assert _run("train", "--resume", "--out", run) == 2
    assert "--init" in capfd.readouterr().err


def test_torch_and_torchvision_that_do_not_go_together_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")  # by `import torchvision`

    monkeypatch.setitem(_COMMANDS, "doctor", (Doctor, fail))
    assert _run("doctor") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"selfcluster: error: torch \S+ and torchvision \S+ do not go together \(operator torchvision::nms", line)
    assert "pip install --force-reinstall torch torchvision" in line


def test_results_are_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    sc.train(tiny.images(), out=run, **{**tiny.SETTINGS, "epochs": 1})
    np.save(tmp_path / "images.npy", tiny.images())

    def answer(*words: str) -> dict[str, Any]:
        capsys.readouterr()
        main([*words, "--json", "--quiet"])
        return json.loads(capsys.readouterr().out)

    images = str(tmp_path / "images.npy")
    clusters = answer("cluster", str(run), images, "--k", "3", "--out", str(tmp_path / "clusters.parquet"))
    assert (clusters["images"], clusters["clusters"], clusters["unreadable"]) == (36, 3, 0)
    assert clusters["table"] == str(tmp_path / "clusters.parquet")
    assert answer("embed", str(run), images, "--out", str(tmp_path / "e.npy"))["width"] == 128
    assert "eval/silhouette" in answer("evaluate", str(run), images, "--only", "label-free", "--no-baselines")["figures"]["trained encoder"]
    assert answer("export", str(run), "--format", "timm")["files"]
    assert answer("doctor", "--quick")["selfcluster"].startswith(sc.__version__)
