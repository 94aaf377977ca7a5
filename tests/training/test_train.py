"""The public entry points, and the contents of a run folder."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import selfcluster as sc
from selfcluster.runs.metrics import cut_back, read_rows
from selfcluster.training import loop
from selfcluster.training.train import _on_rank_0, dry_run
from tests import tiny
from tests.ranks import on_ranks

FAST: dict[str, Any] = {**tiny.SETTINGS, "epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    trained = sc.train(tiny.images(), out=out, **FAST)
    return trained


def _photos(folder: Path, shared_data: Path) -> Path:
    """The awkward files, their tar unpacked, and a few good ones in a folder inside."""
    import tarfile

    from PIL import Image

    photos = folder / "photos"
    shutil.copytree(shared_data / "awkward", photos)
    with tarfile.open(photos / "unicode_names.tar") as tar:
        tar.extractall(photos, filter="data")
    (photos / "more").mkdir()
    for i, image in enumerate(tiny.images(12)):
        Image.fromarray(image).save(photos / "more" / f"{i}.png")
    return photos


def test_the_folder_contains_what_the_docs_say(run: sc.Run) -> None:
    assert {p.name for p in run.path.iterdir()} == {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "log.txt",
        "data.parquet",
        "checkpoints",
        "model",
    }
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0] or environment["versions"]["torch"] == torch.__version__
    assert run.metrics[0]["train/loss"] > 0


def test_settings_far_from_what_works_are_named_before_the_first_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sc.train(tiny.images(), out=tmp_path / "run", **{**FAST, "epsilon": 0.5})
    said = "far from what works elsewhere: epsilon 0.5 is far above the paper's 0.05; lower it"
    assert said in caplog.text
    assert said in (tmp_path / "run" / "log.txt").read_text("utf-8")


def test_a_run_loads_with_the_same_weights_and_embeds_the_same(run: sc.Run) -> None:
    again = sc.load(run.path)
    assert again.config == run.config
    images = tiny.images(10, seed=5)
    features = run.embed(images)
    assert features.shape == (10, 128)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, again.embed(images))
    heads = run.embed(images, layer="head")
    np.testing.assert_allclose(np.linalg.norm(heads, axis=1), 1, rtol=1e-5)
    assert heads.shape == (10, 16)


def test_a_folder_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(sc.CheckpointError, match=r"cannot write .*file.*: Not a directory; choose another --out"):
        sc.train(tiny.images(), out=tmp_path / "file" / "run", **FAST)


def _failure_on_a_rank(file: str) -> str:
    try:
        _on_rank_0(lambda: (Path(file) / "run").mkdir(), Path(file))
    except sc.CheckpointError as error:
        return str(error)
    return "written"


def test_all_ranks_raise_the_error_of_rank_0(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    left, right = on_ranks(_failure_on_a_rank, str(tmp_path / "file"))
    assert left == right == f"cannot write {str(tmp_path / 'file' / 'run')!r}: Not a directory; choose another --out, or free some space"


def test_a_run_on_an_array_asks_for_it_again(run: sc.Run) -> None:
    with pytest.raises(sc.DataError, match="pass the images again"):
        run.embed()


def test_timm_loads_the_model_with_the_same_features(run: sc.Run) -> None:
    model = timm.create_model(f"local-dir:{run.path / 'model'}", pretrained=True, num_classes=0).eval()
    x = torch.rand(2, 3, 16, 16)
    # The run's encoder is channels-last, so the two add up in another order.
    torch.testing.assert_close(model(x), run.model.encoder(x), rtol=1e-3, atol=1e-3)
    assert model.pretrained_cfg["mean"] == pytest.approx((0.485, 0.456, 0.406))


def test_an_exported_vit_accepts_the_crops_it_was_trained_on(tmp_path: Path) -> None:
    settings = {**FAST, "encoder": "vit_tiny_patch16_224", "crop_pixels": (32, 16), "max_steps": 1}
    run = sc.train(tiny.images(), out=tmp_path / "run", **settings)
    model = timm.create_model(f"local-dir:{run.path / 'model'}", pretrained=True, num_classes=0).eval()
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(x), run.model.encoder(x), rtol=1e-3, atol=1e-3)


def test_init_from_a_run_from_a_file_and_refusals(run: sc.Run, tmp_path: Path) -> None:
    settings = {**FAST, "method": "swav", "max_steps": 1, "lr": 0.0, "final_lr": 0.0}
    for source in (run.path, run.path / "model" / "model.safetensors"):
        started = sc.train(tiny.images(), out=tmp_path / source.name, **{**settings, "init": str(source)})
        wanted = run.model.encoder.conv1.weight
        assert torch.equal(started.model.encoder.conv1.weight, wanted)
    saved = {f"module.encoder.{name}": value for name, value in run.model.encoder.state_dict().items()}
    torch.save({"state_dict": saved, "epoch": 3}, tmp_path / "w.pth")
    started = sc.train(tiny.images(), out=tmp_path / "from-pth", **{**settings, "init": str(tmp_path / "w.pth")})
    assert torch.equal(started.model.encoder.conv1.weight, wanted)
    del saved["module.encoder.layer1.0.conv1.weight"]
    torch.save(saved, tmp_path / "part.pth")
    for init, error, message in (
        (tmp_path / "part.pth", sc.CheckpointError, "does not contain the encoder's tensor 'layer1.0.conv1.weight'"),
        (run.path / "config.toml", sc.CheckpointError, "cannot read weights"),
        ("nonsense", sc.ConfigError, "is not a run folder, weights file or timm name"),
    ):
        with pytest.raises(error, match=message):
            sc.train(tiny.images(), out=tmp_path / "refused", **{**settings, "init": str(init)})
    with pytest.raises(sc.CheckpointError, match="shape"):
        sc.train(tiny.images(), out=tmp_path / "refused", **{**settings, "init": str(run.path), "encoder": "resnet18_small_half"})
    assert not (tmp_path / "refused").exists()


def test_a_used_folder_is_refused_but_for_resume_and_overwrite(run: sc.Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run.path, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(
        sc.CheckpointError, match="already contains a run; use train --resume to continue one that is trained, or --overwrite to replace it"
    ):
        sc.train(tiny.images(), out=out, **FAST)
    sc.train(tiny.images(), out=out, overwrite=True, **{**FAST, "max_steps": 2})
    assert json.loads((out / "checkpoints" / "last.json").read_text())["step"] == 2
    assert (out / "notes.txt").read_text() == "mine"
    other = tmp_path / "documents"
    other.mkdir()
    (other / "thesis.txt").write_text("years")
    with pytest.raises(sc.CheckpointError, match="not a run's"):
        sc.train(tiny.images(), out=other, overwrite=True, **FAST)
    assert (other / "thesis.txt").exists()


def test_resume_through_train_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", tiny.images())
    settings = {**FAST, "epochs": 3, "queue_length": 16, "queue_from_epoch": 1}
    whole = sc.train(tmp_path / "images.npy", out=tmp_path / "whole", **settings)
    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda t, log, folder: fit(t, log, folder, stop_at=6))
    with pytest.raises(loop.Interrupted):
        sc.train(tmp_path / "images.npy", out=tmp_path / "cut", **settings)
    monkeypatch.undo()
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as rows:
        rows.write('{"step": 8, "epoch": 2, "train/loss": 0}\n{"ste')
    resumed = sc.train(out=tmp_path / "cut", resume=True, workers=0)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    same = [name for name in whole.metrics[0] if name.startswith("collapse/") or name == "train/loss"]
    assert len(same) == 4
    for one, other in zip(whole.metrics, resumed.metrics, strict=True):  # the watch goes on where it was
        assert {name: value for name, value in one.items() if name in same} == {
            name: value for name, value in other.items() if name in same
        }


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny.images())
    out, settings = tmp_path / "run", {**FAST, "epochs": 2, "checkpoint_minutes": 0.0, "keep_checkpoints": 3}
    whole = sc.train(tmp_path / "images.npy", out=out, **settings)
    steps = sorted(int(path.name) for path in (out / "checkpoints").iterdir() if path.is_dir())
    assert steps == [6, 7, 8]
    (out / "checkpoints" / "8" / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(
        sc.CheckpointError, match=r"is damaged.*; resume from the checkpoint of step 7: selfcluster train --resume --from 7 --out "
    ):
        sc.train(out=out, resume=True)
    with pytest.raises(sc.CheckpointError, match="no checkpoint of step 5; there are: 6 and 7 and 8"):
        sc.train(out=out, resume=True, from_step=5)
    with pytest.raises(sc.ConfigError, match="--from names a checkpoint to resume from; add --resume"):
        sc.train(tmp_path / "images.npy", out=tmp_path / "other", from_step=5, **settings)
    again = sc.train(out=out, resume=True, from_step=6)
    assert again.opened.step == 8
    assert [row["step"] for row in again.metrics] == [row["step"] for row in whole.metrics]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_one_command_begins_resumes_and_ends_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", tiny.images())
    (tmp_path / "settings.toml").write_text("[run]\nlog_steps = 1\n")
    images, out = tmp_path / "images.npy", tmp_path / "run"
    same: dict[str, Any] = {**FAST, "epochs": 2, "config": tmp_path / "settings.toml", "resume": "auto"}
    del same["log_steps"]
    whole = sc.train(images, out=tmp_path / "whole", **same)
    out.mkdir()
    (out / "environment.json").write_text("{}")  # from a run that was killed before it had settings
    fit = loop.fit
    monkeypatch.setattr(loop, "fit", lambda t, log, folder: fit(t, log, folder, stop_at=5))
    with pytest.raises(loop.Interrupted):
        sc.train(images, out=out, **same)
    monkeypatch.undo()
    with pytest.raises(sc.ConfigError, match=r"cannot resume with lr 0\.5: this run has 1\.0"):
        sc.train(images, out=out, **{**same, "lr": 0.5})
    again = sc.train(images, out=out, **same)
    assert [row["train/loss"] for row in again.metrics if "train/loss" in row] == [
        row["train/loss"] for row in whole.metrics if "train/loss" in row
    ]
    trained = (out / "checkpoints" / "8" / "state.json").read_bytes()
    assert sc.train(images, out=out, **same).opened.step == 8, "a finished run stays as it is"
    assert (out / "checkpoints" / "8" / "state.json").read_bytes() == trained


def test_one_command_with_a_time_limit_ends_too(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny.images())
    same: dict[str, Any] = {**FAST, "epochs": 3, "max_minutes": 5.0, "resume": "auto", "out": tmp_path / "run"}
    first = sc.train(tmp_path / "images.npy", **same)
    assert sc.train(tmp_path / "images.npy", **same).opened.step == first.opened.step


def test_a_folder_of_others_is_not_begun_in(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(sc.CheckpointError, match="contains files that are not a run's"):
        sc.train(tiny.images(), out=tmp_path, resume="auto", **FAST)
    with pytest.raises(sc.ConfigError, match="--resume auto needs --out RUN"):
        sc.train(tiny.images(), resume="auto", **FAST)


def test_a_run_is_resumed_by_several_processes(tmp_path: Path) -> None:
    """They take one lock, after they have met."""
    np.save(tmp_path / "images.npy", tiny.images())
    out = tmp_path / "run"
    sc.train(tmp_path / "images.npy", out=out, **FAST)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "selfcluster", "train"]
    done = subprocess.run([*command, "--out", str(out), "--resume"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{out} has finished: 4 steps" in done.stderr


def test_resume_refuses_other_data_and_names_three(tmp_path: Path) -> None:
    from PIL import Image

    photos = tmp_path / "photos"
    photos.mkdir()
    for i, image in enumerate(tiny.images(16)):
        Image.fromarray(image).save(photos / f"{i:02}.png")
    sc.train(photos, out=tmp_path / "run", **FAST)
    for i in range(4):
        (photos / f"{i:02}.png").rename(photos / f"renamed{i}.png")
    with pytest.raises(sc.DataError, match=r"4 images removed, 4 added \(-00.png, -01.png, -02.png\)"):
        sc.train(out=tmp_path / "run", resume=True)


def test_evaluation_refuses_the_runs_own_data_when_it_has_changed(tmp_path: Path) -> None:

    images, labels = tiny.images(40), np.arange(40) % 2
    np.savez(tmp_path / "toys.npz", images=images, labels=labels)
    run = sc.train(tmp_path / "toys.npz", out=tmp_path / "run", test_share=0.25, **FAST)
    np.savez(tmp_path / "toys.npz", images=images[::-1], labels=labels)
    with pytest.raises(sc.DataError, match="the contents of images differ"):
        run.evaluate()


def test_resume_and_load_of_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(sc.ConfigError, match="--resume needs --out"):
        sc.train(resume=True)
    for use in (lambda: sc.train(out=tmp_path, resume=True), lambda: sc.load(tmp_path)):
        with pytest.raises(sc.CheckpointError, match="not a run folder"):
            use()


def test_a_damaged_checkpoint_is_named(run: sc.Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    weights = next((tmp_path / "run" / "checkpoints").glob("*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(sc.CheckpointError, match=r"model.safetensors' is damaged"):
        sc.load(tmp_path / "run")


def test_a_checkpoint_of_another_configuration_is_refused(run: sc.Run, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "run")
    file = tmp_path / "run" / "config.toml"
    file.write_text(file.read_text().replace("head_width = 32", "head_width = 48"))
    with pytest.raises(sc.CheckpointError, match=r"the checkpoint has head_width 32, but config\.toml has 48"):
        sc.load(tmp_path / "run")


def test_awkward_images_are_skipped_counted_and_listed(shared_data: Path, tmp_path: Path) -> None:
    photos = _photos(tmp_path, shared_data)
    run = sc.train(photos, out=tmp_path / "run", max_broken_share=0.5, workers=0, **{**FAST, "epochs": 2})
    with (run.path / "skipped.csv").open() as file:
        skipped = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(skipped) == {"bomb_120mp.png", "empty.jpg", "notes.jpg", "truncated.jpg"}
    assert "12000 x 10000" in skipped["bomb_120mp.png"]
    data = run.opened.data()
    features = run.embed()
    unreadable = {data.images.path(int(i)) for i in np.flatnonzero(np.isnan(features).any(axis=1))}
    assert unreadable == set(skipped)
    assert len(features) == len(data.images)


def test_too_many_broken_images_stop_the_run(shared_data: Path, tmp_path: Path) -> None:
    photos = _photos(tmp_path, shared_data)
    with pytest.raises(sc.DataError, match=r"of 34 images cannot be read .*max_broken_share 0.05"):
        sc.train(photos, out=tmp_path / "run", max_broken_share=0.05, workers=0, **{**FAST, "epochs": 2})


def test_max_minutes_fits_the_schedule(tmp_path: Path) -> None:
    run = sc.train(tiny.images(), out=tmp_path / "run", **{**FAST, "epochs": 100_000, "max_minutes": 0.05})
    assert 0 < run.config.optim.max_steps < 400_000
    assert "max_minutes 0.05 at" in (run.path / "config.toml").read_text()
    assert (
        run.metrics[-2]["train/lr"] < 2 * run.config.optim.final_lr
    )  # the schedule ends with the run, which may be of other steps by then


def test_dry_run_trains_nothing_and_writes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dry_run(tiny.images(), **FAST)
    said = "\n".join(caplog.messages)
    assert "recipe: " in said
    assert "estimate: " in said
    assert list(tmp_path.iterdir()) == []


def test_test_share_keeps_images_out_and_the_split_in_the_run(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run = sc.train(tiny.images(), out=tmp_path / "run", test_share=0.25, **FAST)
    trained_on = pq.read_table(run.path / "data.parquet")["trained_on"].to_pylist()
    assert trained_on.count(False) == 9


def test_default_folders_count_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("toys.npy", tiny.images())
    runs = [sc.train("toys.npy", **{**FAST, "max_steps": 1}).path for _ in range(2)]
    assert runs == [Path("runs/toys-swav-1"), Path("runs/toys-swav-2")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "dino"}, "unknown method 'dino'"),
        ({"preset": "imagnet"}, "unknown preset"),
        ({"encoder": "resnet19"}, "did you mean 'resnet18'"),
        ({"n_cropz": 3}, "did you mean 'n_crops'"),
        ({"encoder": "vit_tiny_patch16_224", "crop_pixels": (32, 20)}, "does not accept crops of 20 px"),
        ({"device": "cuda" if not torch.cuda.is_available() else "tpu"}, "device"),
        ({"wandb": "x"}, r"selfcluster\[wandb\]"),
    ],
)
def test_bad_settings_leave_nothing_behind(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(sc.ConfigError, match=message):
        sc.train(tiny.images(), out=tmp_path / "run", **{**FAST, **arguments})
    assert not (tmp_path / "run").exists()


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [
        {"step": 2, "epoch": 0, "train/loss": 1.0},
        {"step": 4, "epoch": 0, "train/loss": 0.9},
        {"step": 4, "epoch": 1, "cluster/n_empty": 0.0},
        {"step": 6, "epoch": 1, "train/loss": 0.8},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cut_back(file, 4)
    assert read_rows(file) == rows[:3]
    cut_back(file, 4, 1)  # the epoch starts again, and with it its clustering
    assert read_rows(file) == rows[:2]
