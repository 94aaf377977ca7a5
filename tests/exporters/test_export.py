"""Exports: each format is loaded by the library it is for, without selfcluster where possible."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import selfcluster as sc
from selfcluster.data.crops import normalize
from selfcluster.exporters import run_folder, torchvision_weights
from selfcluster.exporters.export import FORMATS
from selfcluster.exporters.verification import Source, plain_copy, probe
from selfcluster.inference.centroids import read_centroids
from selfcluster.runs import checkpoint
from selfcluster.runs.folder import read_model
from tests import tiny

FAST: dict[str, Any] = {**tiny.SETTINGS, "epochs": 1, "threads": 1}
PHOTO: dict[str, Any] = {**FAST, "encoder": "resnet18", "crop_pixels": (32, 16), "max_steps": 1}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    """A run with one of our networks."""
    return sc.train(tiny.images(), out=tmp_path_factory.mktemp("runs") / "small", **FAST)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    """A run with one of timm's networks, on files."""
    root = tmp_path_factory.mktemp("runs")
    (root / "secret place" / "pictures").mkdir(parents=True)
    data = tiny.folder_of_images(root / "secret place" / "pictures")
    return sc.train(data.where, out=root / "photo", **PHOTO)


def _alone(code: str, **environment: str) -> str:
    """Return the output of a new Python process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _hub_cache(files: Path, name: str, cache: Path) -> None:
    """Fill the cache of huggingface_hub with these files."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(files, place / "snapshots" / ("0" * 40))


def test_exports_load_by_the_printed_line_without_selfcluster(photo: sc.Run, small: sc.Run, tmp_path: Path) -> None:
    """In one new process, since starting it takes time; last, one of our networks, which timm knows only after our import."""
    pytest.importorskip("onnxruntime")
    exported = {name: photo.export(name, out=tmp_path / name) for name in ("timm", "torchvision", "onnx", "hub")}
    _hub_cache(tmp_path / "hub", "YOUR-NAME/photo", tmp_path / "cache")
    image = Image.fromarray(tiny.images(1, pixels=32)[0])
    image.save(tmp_path / "image.png")
    source = Source(photo.path, photo.config, plain_copy(photo.model, photo.config))
    images = probe(source)
    np.save(tmp_path / "images.npy", images.numpy())
    own = small.export("timm", out=tmp_path / "own")
    assert "after `import selfcluster.models`" in str(own)
    lines = {name: one.next_step.removeprefix("next, in Python: ") for name, one in {**exported, "own": own}.items()}
    card = re.findall(r"```python\n(.*?)```", (tmp_path / "hub" / "README.md").read_text(), flags=re.DOTALL)[0]
    code = f"""
import numpy as np, torch
from PIL import Image
images = torch.from_numpy(np.load('images.npy'))
{lines["timm"]}
np.save('by-timm.npy', encoder(images).detach())
{lines["torchvision"]}
np.save('by-torchvision.npy', encoder(images).detach())
{lines["onnx"]}
np.save('by-onnx.npy', session.run(None, {{'images': images.numpy()}})[0])
image = Image.open('image.png')
{card}
np.save('by-hub.npy', features.detach())
import sys
print('selfcluster' in sys.modules)
import selfcluster
try:
    timm.create_model({f"local-dir:{tmp_path / 'own'}"!r})
except RuntimeError as error:
    print(error)
{lines["own"]}
print(encoder.num_features)
"""
    (tmp_path / "alone.py").write_text(code)
    said = _alone(
        f"import os; os.chdir({str(tmp_path)!r}); exec(open('alone.py').read())", HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "cache")
    )
    assert said.splitlines() == ["False", "Unknown model (resnet10_small_quarter_s2)", "128"]
    with torch.no_grad():
        wanted = source.network.encode(images).numpy()
        wanted_of_image = source.network.encode(normalize(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])).numpy()
    allowed = 1e-4 * np.abs(wanted).max()
    for name in ("timm", "torchvision", "onnx"):
        np.testing.assert_allclose(np.load(tmp_path / f"by-{name}.npy"), wanted, rtol=0, atol=allowed, err_msg=name)
    # The card prepares the image as in training.
    np.testing.assert_allclose(np.load(tmp_path / "by-hub.npy"), wanted_of_image, rtol=0, atol=allowed)


def test_the_graph_takes_any_batch_returns_the_layer_and_describes_preprocessing(small: sc.Run, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = small.export("onnx", out=tmp_path / "graph", layer="head")
    session = onnxruntime.InferenceSession(str(tmp_path / "graph" / "model.onnx"))
    assert [(one.name, one.shape[1:]) for one in session.get_inputs()] == [("images", [3, 16, 16])]
    assert [(one.name, one.shape[1:]) for one in session.get_outputs()] == [("head", [16])]
    images = normalize(torch.from_numpy(tiny.images(23, pixels=16)).permute(0, 3, 1, 2))
    network = plain_copy(small.model, small.config)
    for n in (1, 4, 23):
        found = session.run(None, {"images": images[:n].numpy()})[0]
        np.testing.assert_allclose(found, network.project(images[:n]).detach(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    description = json.loads((tmp_path / "graph" / "preprocessing.json").read_text())
    assert json.loads(metadata["preprocessing"]) == description
    assert description["mean"] == [0.485, 0.456, 0.406]
    assert description["output"]["name"] == "head"
    assert metadata["encoder"] == "resnet10_small_quarter_s2"
    assert exported.files == ("model.onnx", "preprocessing.json")
    assert str(Path(sc.__file__).parent).encode() not in (tmp_path / "graph" / "model.onnx").read_bytes()
    assert 0 < exported.difference.largest < 1e-5


@pytest.fixture
def named(small: sc.Run, tmp_path: Path) -> sc.Run:
    """A run with three clusters, of which one has a name and several centroids."""
    shutil.copytree(small.path, tmp_path / "named")
    run = sc.load(tmp_path / "named")
    run.cluster(tiny.images(), k=4)
    (tmp_path / "names.csv").write_text("cluster,name\n0,pets\n2,pets\n")
    run.apply(tmp_path / "names.csv", tiny.images())
    return run


def test_the_clusters_become_a_classifier_of_onnx(named: sc.Run, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert "named/export/onnx-clusters" in str(named.export("onnx", layer="clusters").path)
    session = onnxruntime.InferenceSession(str(named.path / "export" / "onnx-clusters" / "model.onnx"))
    images = tiny.images(23, pixels=16)
    scores = session.run(None, {"images": normalize(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()})[0]
    table = named.assign(images).table
    assert scores.shape == (23, 3)
    assert scores.argmax(axis=1).tolist() == table["cluster"].to_pylist()
    ordered = np.sort(scores, axis=1)
    np.testing.assert_allclose(ordered[:, -1] - ordered[:, -2], table["margin"].to_numpy(), atol=1e-4)
    classes = json.loads((named.path / "export" / "onnx-clusters" / "preprocessing.json").read_text())["output"]["classes"]
    assert len(classes) == 3
    assert classes.index("pets") == read_centroids(named.path).names.index("pets")
    assert sum(name.startswith("cluster-") for name in classes) == 2


def test_the_clusters_become_a_classifier_of_timm(named: sc.Run) -> None:
    exported = named.export("timm", layer="clusters")
    images = tiny.images(23, pixels=16)
    names: dict[str, Any] = {}
    exec(exported.next_step.removeprefix("next, in Python: "), names)
    with torch.no_grad():
        best = names["classifier"](normalize(torch.from_numpy(images).permute(0, 3, 1, 2))).argmax(dim=1).tolist()
    labels = json.loads((exported.path / "config.json").read_text())["label_names"]
    table = named.assign(images).table
    assert best == table["centroid"].to_pylist()
    assert [labels[i] for i in best] == [
        name or f"cluster-{c}" for c, name in zip(table["cluster"].to_pylist(), table["name"].to_pylist(), strict=True)
    ]


def test_clusters_that_a_format_cannot_represent_are_refused(small: sc.Run, tmp_path: Path) -> None:
    shutil.copytree(small.path, tmp_path / "run", ignore=shutil.ignore_patterns("clusters.*"))
    run = sc.load(tmp_path / "run")
    with pytest.raises(sc.CheckpointError, match="run selfcluster cluster"):
        run.export("onnx", layer="clusters")
    run.cluster(tiny.images())
    with pytest.raises(sc.ConfigError, match="use --format onnx, or cluster the features"):
        run.export("timm", layer="clusters")
    with pytest.raises(sc.ConfigError, match="'torchvision' does not support --layer clusters"):
        run.export("torchvision", layer="clusters")
    pytest.importorskip("onnxruntime")
    assert run.export("onnx", layer="clusters").difference.largest < 1e-4
    assert not (run.path / "export" / "timm-clusters").exists()


def test_a_transformer_becomes_a_graph_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    settings = {**FAST, "encoder": "vit_tiny_patch16_224", "crop_pixels": (32, 16), "max_steps": 1}
    run = sc.train(tiny.images(), out=tmp_path / "run", **settings)
    assert run.export("onnx").difference.largest > 0
    assert run.export("timm").path == run.path / "export" / "timm"
    with pytest.raises(sc.ConfigError, match="'vit_tiny_patch16_224' is not a torchvision architecture: only plain ResNets"):
        run.export("torchvision")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "'resnet10_small_quarter_s2' is not a torchvision architecture: its stem is 3 x 3"),
        ({"encoder": "resnet50d"}, "'resnet50d' is not a torchvision architecture: its stem or blocks"),
        ({"encoder": "vit_tiny_patch16_224.augreg_in21k"}, "'vit_tiny_patch16_224' is not a torchvision architecture: only plain ResNets"),
        ({"encoder": "resnet18", "sobel": True}, "takes edges"),
    ],
)
def test_other_architectures_are_refused_for_torchvision_with_the_reason(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(sc.ConfigError, match=message):
        torchvision_weights.check(tiny.config(**settings))


@pytest.mark.parametrize("name", torchvision_weights.SHARED)
def test_shared_networks_have_the_same_tensors(name: str) -> None:
    import timm
    import torchvision

    with torch.device("meta"):
        theirs, ours = torchvision.models.get_model(name, weights=None), timm.create_model(name, num_classes=0)
    shapes = {tensor: value.shape for tensor, value in theirs.state_dict().items() if not tensor.startswith("fc.")}
    assert {tensor: value.shape for tensor, value in ours.state_dict().items()} == shapes


def test_the_card_reports_what_the_run_recorded(photo: sc.Run, tmp_path: Path) -> None:
    bare = photo.export("hub", out=tmp_path / "bare").path / "README.md"
    assert "Not evaluated." in bare.read_text()
    figures = {"raw pixels": {"eval/knn_top1_k20": 0.25}, "trained encoder": {"eval/knn_top1_k20": 0.5, "cluster/ami": 0.125}}
    shutil.copytree(photo.path, tmp_path / "photo")
    where = json.dumps(photo.opened.images)
    notes = ["tested on 7 images", f"trained on {photo.opened.images}"]
    (tmp_path / "photo" / "evaluation.json").write_text(json.dumps({"figures": figures, "notes": notes, "of": where}))
    (tmp_path / "photo" / "evaluation-flowers.json").write_text(json.dumps({"figures": {"raw pixels": {"cluster/ami": 0.75}}, "notes": []}))
    copied = sc.load(tmp_path / "photo")
    text = (copied.export("hub").path / "README.md").read_text()
    copied.export("whole")
    assert json.loads((tmp_path / "photo" / "export" / "whole" / "evaluation.json").read_text())["figures"] == figures
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "timm"
    assert {"timm", "swav"} <= set(front["tags"])
    assert "license" not in front
    assert "30 images from `pictures`" in text
    assert "1 steps (0.267 passes over the images) in" in text
    assert "| eval/knn_top1_k20 | 0.250 | 0.500 |" in text
    assert "| cluster/ami |  | 0.125 |" in text
    assert "- tested on 7 images\n- trained on pictures\n" in text
    assert "On `flowers`:\n\n|  | raw pixels |\n| --- | --- |\n| cluster/ami | 0.750 |" in text
    assert "| encoder | resnet18 |" in text
    for file in (tmp_path / "photo" / "export").rglob("*.*"):
        assert file.is_dir() or b"secret place" not in file.read_bytes(), file


@pytest.mark.parametrize("method", ["swav", "deepcluster", "deepcluster-v2", "sela-v2"])
def test_a_whole_run_is_loaded_as_it_was(method: str, tmp_path: Path) -> None:
    (tmp_path / "secret place").mkdir()
    data = tiny.folder_of_images(tmp_path / "secret place", broken=())
    settings = {name: value for name, value in tiny.SETTINGS.items() if name not in tiny.OF_METHOD.get(method, {})}
    if method != "swav":
        del settings["freeze_steps"]
    if method == "deepcluster":
        del settings["head_width"], settings["embedding_width"]
        settings["sobel"] = True
    run = sc.train(
        data.where, method=method, out=tmp_path / "run", **{**settings, **tiny.OF_METHOD.get(method, {}), "epochs": 1, "threads": 1}
    )
    images = tiny.images(5, seed=3)
    whole = run.export("whole", out=tmp_path / "whole").path
    again = sc.load(whole)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    for layer in ("features", "head"):
        np.testing.assert_array_equal(run.embed(images, layer=layer), again.embed(images, layer=layer))
    assert again.config == run.config
    assert again.metrics == run.metrics
    assert not list(whole.rglob("optimizer*"))
    for file in whole.rglob("*"):
        assert file.is_dir() or b"secret place" not in file.read_bytes(), file
    assert run.export("timm").difference.of > 0
    assert again.export("timm", out=tmp_path / "timm").files == ("config.json", "model.safetensors")


def test_a_whole_run_is_trained_from_but_not_resumed(small: sc.Run, tmp_path: Path) -> None:
    whole = small.export("whole", out=tmp_path / "whole").path
    settings = {**{name: value for name, value in FAST.items() if name != "encoder"}, "max_steps": 1, "lr": 0.0, "final_lr": 0.0}
    started = sc.train(tiny.images(), out=tmp_path / "next", init=str(whole), **settings)
    assert torch.equal(started.model.encoder.conv1.weight, small.model.encoder.conv1.weight)
    assert re.search(
        r'encoder = "resnet10_small_quarter_s2"  # that of the weights in init', (tmp_path / "next" / "config.toml").read_text()
    )
    with pytest.raises(sc.CheckpointError, match="train from it with --init"):
        sc.train(tiny.images(), out=whole, resume=True)
    with pytest.raises(sc.DataError, match="was imported or exported without its images"):
        sc.load(whole).embed()
    with pytest.raises(sc.CheckpointError, match=r"no data\.parquet"):
        sc.load(whole).opened.trained_on()
    assert "are not recorded here" in (sc.load(whole).export("hub", out=tmp_path / "hub").path / "README.md").read_text()


def test_a_half_trained_run_is_exported_and_trained_from(small: sc.Run, tmp_path: Path) -> None:
    shutil.copytree(small.path, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "model")
    assert sc.load(tmp_path / "half").export("timm").files == ("config.json", "model.safetensors")
    settings = {**FAST, "max_steps": 1, "lr": 0.0, "final_lr": 0.0, "init": str(tmp_path / "half")}
    assert torch.equal(
        sc.train(tiny.images(), out=tmp_path / "next", **settings).model.encoder.conv1.weight, small.model.encoder.conv1.weight
    )


def test_only_an_export_is_replaced_and_only_on_request(small: sc.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = small.export("timm", out=tmp_path / "timm").path
    with pytest.raises(sc.CheckpointError, match="already contains an export; use --overwrite"):
        small.export("timm", out=out)
    (out / "config.json").write_text("{}")
    small.export("timm", out=out, overwrite=True)
    assert json.loads((out / "config.json").read_text())["architecture"] == "resnet10_small_quarter_s2"
    (out / "notes.txt").write_text("mine")
    for target, name in ((out, "notes.txt"), (small.path, "checkpoints")):
        with pytest.raises(sc.CheckpointError, match=f"contains '{name}', which is not part of an export"):
            small.export("timm", out=target, overwrite=True)
    for target in (tmp_path / "encoder.onnx", tmp_path / "encoder.pt"):
        with pytest.raises(sc.ConfigError, match=r"an export is a folder; use --out \S*encoder$"):
            small.export("timm", out=target)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sc.ConfigError, match="is the current folder"):
        small.export("timm", out=".", overwrite=True)
    with pytest.raises(sc.CheckpointError, match="is a file"):
        small.export("timm", out=out / "notes.txt", overwrite=True)
    with pytest.raises(sc.ConfigError, match=r"cannot write .*Not a directory; choose another --out"):
        small.export("timm", out=out / "notes.txt" / "below")
    assert (out / "notes.txt").read_text() == "mine"


def test_a_full_disk_is_said_of_the_export_not_of_its_checkpoint(small: sc.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(file: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_synced", full_disk)
    with pytest.raises(
        sc.ConfigError, match=r"cannot write '[^']*there': No space left on device; choose another --out, or free some space"
    ):
        small.export("whole", out=tmp_path / "there")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["timm", "whole", "onnx"])
def test_an_export_with_other_features_is_not_written(format: str, small: sc.Run, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
    broken = sc.load(small.path)
    with torch.no_grad():
        broken.model.encoder.conv1.weight[0] = torch.nan
    with pytest.raises(sc.CheckpointError, match="the export does not reproduce the run"):
        broken.export(format, out=tmp_path / "new" / "place")
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_no_output_depends_on_is_compared_too(small: sc.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(folder: Path) -> Any:
        config, images, network = read_model(folder)
        network.encoder.bn1.num_batches_tracked += 1
        return config, images, network

    monkeypatch.setattr(run_folder, "read_model", other)
    with pytest.raises(sc.CheckpointError, match=r"its tensor 'encoder\.bn1\.num_batches_tracked' differs"):
        small.export("whole", out=tmp_path / "whole")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named_with_its_install_command(small: sc.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(sc.ConfigError, match=r"--format onnx requires onnx, onnxruntime, onnxscript: pip install 'selfcluster\[onnx\]'"):
        small.export("onnx", out=tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_unknown_formats_and_layers(small: sc.Run) -> None:
    assert set(FORMATS) == {"timm", "torchvision", "onnx", "hub", "whole"}
    with pytest.raises(sc.ConfigError, match="unknown format 'onxx'; did you mean 'onnx'"):
        small.export("onxx")
    with pytest.raises(sc.ConfigError, match="format 'timm' does not support --layer head"):
        small.export("timm", layer="head")
