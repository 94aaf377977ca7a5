"""Import of checkpoints in the layout of the originals, with random weights, since the originals' own cannot be shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import selfcluster as sc
from selfcluster.runs.convert import import_original
from tests import tiny

WIDTH, HIDDEN = 12, 24


def _original(network: nn.Module, n_features: int, prototypes: dict[str, int]) -> dict[str, Tensor]:
    """Return a flat checkpoint with the prefix `module.` and torchvision's names; prototypes have nearly unit norm."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    head = {
        "0.weight": normal(HIDDEN, n_features) / n_features**0.5,
        "0.bias": normal(HIDDEN),
        "1.weight": 1 + 0.1 * normal(HIDDEN),
        "1.bias": normal(HIDDEN),
        "1.running_mean": normal(HIDDEN),
        "1.running_var": 1 + normal(HIDDEN).square(),
        "1.num_batches_tracked": torch.tensor(7),
        "3.weight": normal(WIDTH, HIDDEN),
        "3.bias": normal(WIDTH),
    }
    rows = {name: 1.003 * nn.functional.normalize(normal(k, WIDTH)) for name, k in prototypes.items()}
    encoder = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("fc.")}
    named = {**encoder, **{f"projection_head.{name}": tensor for name, tensor in head.items()}, **rows}
    return {f"module.{name}": tensor for name, tensor in named.items()}


SWAV = {"prototypes.weight": 9}
DEEPCLUSTER_V2 = {f"prototypes.prototypes{head}.weight": k for head, k in enumerate((9, 7, 8))}


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


@pytest.fixture(scope="module")
def imported(resnet18: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    root = tmp_path_factory.mktemp("originals")
    content = {
        "epoch": 3,
        "state_dict": _original(resnet18, 512, SWAV),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.6}]},
        "amp": None,
    }
    torch.save(content, root / "ckp-3.pth")
    return sc.load(import_original(root / "ckp-3.pth", root / "run").path)


@torch.no_grad()
def test_features_embeddings_and_scores_are_the_originals(imported: sc.Run, resnet18: nn.Module) -> None:
    weights = {name.removeprefix("module."): tensor for name, tensor in _original(resnet18, 512, SWAV).items()}
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    body = nn.Sequential(*list(resnet18.children())[:-1], nn.Flatten())
    features = body(images)
    torch.testing.assert_close(imported.model.encode(images), features, rtol=1e-4, atol=1e-4)
    head = {
        name.removeprefix("projection_head."): tensor.double() for name, tensor in weights.items() if name.startswith("projection_head.")
    }
    hidden = features.double() @ head["0.weight"].T + head["0.bias"]
    hidden = (hidden - head["1.running_mean"]) / (head["1.running_var"] + 1e-5).sqrt() * head["1.weight"] + head["1.bias"]
    z = hidden.relu() @ head["3.weight"].T + head["3.bias"]
    z = z / z.norm(dim=1, keepdim=True)
    torch.testing.assert_close(imported.model.project(images).double(), z, rtol=1e-4, atol=1e-5)
    rows = weights["prototypes.weight"].double()
    torch.testing.assert_close(
        imported.model.prototypes(imported.model.project(images))[0].double(),
        z @ (rows / rows.norm(dim=1, keepdim=True)).T,
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(imported.model.prototypes.weight.norm(dim=1), torch.ones(9), rtol=0, atol=1e-6)


def test_settings_follow_from_the_tensors(imported: sc.Run) -> None:
    m = imported.config.model
    assert (imported.config.method, m.encoder, m.head_width, m.embedding_width) == ("swav", "resnet18", HIDDEN, WIDTH)
    assert imported.config.n_prototypes == (9,)
    written = (imported.path / "config.toml").read_text()
    assert 'encoder = "resnet18"  # imported from ckp-3.pth' in written
    assert "n_prototypes = 9  # imported from ckp-3.pth" in written
    assert "lr = 0.6  # default" in written
    assert {p.name for p in imported.path.iterdir()} == {"config.toml", "environment.json", "checkpoints", "model"}


def test_several_heads_are_deepcluster_v2_and_the_prefix_is_optional(resnet18: nn.Module, tmp_path: Path) -> None:
    weights = _original(resnet18, 512, DEEPCLUSTER_V2)
    # Checkpoints of old torch versions have no counters; the order of the tensors does not matter.
    bare = dict(sorted((name, tensor) for name, tensor in weights.items() if "num_batches" not in name))
    torch.save(bare, tmp_path / "deepclusterv2_pretrain.pth.tar")
    run = import_original(tmp_path / "deepclusterv2_pretrain.pth.tar", tmp_path / "run")
    assert (run.config.method, run.config.n_prototypes) == ("deepcluster-v2", (9, 7, 8))
    for head, rows in enumerate(run.model.prototypes.heads()):
        expected = nn.functional.normalize(weights[f"module.prototypes.prototypes{head}.weight"])
        torch.testing.assert_close(rows, expected)


def test_a_resnet50_is_recognized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet50().eval()
    torch.save(_original(network, 2048, SWAV), tmp_path / "swav_800ep_pretrain.pth.tar")
    monkeypatch.chdir(tmp_path)
    run = import_original("swav_800ep_pretrain.pth.tar")
    assert run.path == Path("runs/swav_800ep_pretrain-swav-1")
    assert run.config.model.encoder == "resnet50"
    assert run.model.n_features == 2048
    encoder = timm.create_model(f"local-dir:{run.path}/model", pretrained=True, num_classes=0).eval()
    network.fc = nn.Identity()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images), network(images), rtol=1e-4, atol=1e-4)


def _without(name: str) -> Any:
    return lambda weights: weights.pop(f"module.{name}")


def _with(name: str, *shape: int) -> Any:
    return lambda weights: weights.update({f"module.{name}": torch.zeros(*shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _without("layer2.0.bn1.weight"),
            "with a resnet18: 'layer2.0.bn1.weight' is missing; to use the encoder alone, train from it with --init",
        ),
        (_without("layer4.1.conv1.weight"), "'layer4.1.conv1.weight' is missing"),
        (_without("projection_head.3.bias"), "'projection_head.3.bias' is missing"),
        (_without("prototypes.weight"), "'prototypes.weight' is missing"),
        (_with("fc.weight", 10, 512), "'fc.weight' is unexpected"),
        (_with("layer1.0.se.weight", 3), "'layer1.0.se.weight' is unexpected"),
        (
            _with("conv1.weight", 128, 3, 7, 7),
            r"a ResNet of 2 times the normal width \(128 channels after the stem\), which timm does not have",
        ),
        (
            _with("layer1.0.conv2.weight", 64, 32, 3, 3),
            r"contains 'encoder.layer1.0.conv2.weight' with shape \(64, 32, 3, 3\), where its other tensors need \(64, 64, 3, 3\)",
        ),
        (
            _with("prototypes.weight", 9, WIDTH + 1),
            rf"contains 'prototypes.weight' with shape \(9, {WIDTH + 1}\), but its head has {WIDTH} outputs",
        ),
    ],
)
def test_a_mismatch_names_the_tensor(change: Any, message: str, resnet18: nn.Module, tmp_path: Path) -> None:
    weights = _original(resnet18, 512, SWAV)
    change(weights)
    torch.save({"state_dict": weights}, tmp_path / "odd.pth")
    with pytest.raises(sc.CheckpointError, match=message):
        import_original(tmp_path / "odd.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_both_the_first_missing_and_the_first_surplus_are_named(resnet18: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "supervised.pth")
    with pytest.raises(sc.CheckpointError, match=r"'projection_head.0.weight' is missing and 'fc.weight' is unexpected"):
        import_original(tmp_path / "supervised.pth", tmp_path / "run")


def test_unusable_files_and_folders_are_refused(imported: sc.Run, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (
        ("none.pth", "no file"),
        ("text.pth", "cannot read weights .* save its state_dict alone"),
        ("list.pth", "contains a list"),
    ):
        with pytest.raises(sc.CheckpointError, match=message):
            import_original(tmp_path / name, tmp_path / "run")
    file = next(imported.path.parent.glob("*.pth"))
    for out in (imported.path, tmp_path):
        with pytest.raises(sc.CheckpointError, match="is in use; choose another --out"):
            import_original(file, out)
    with pytest.raises(sc.CheckpointError, match=r"cannot write .*Not a directory"):
        import_original(file, tmp_path / "text.pth" / "below")


def test_an_imported_run_is_evaluated_on_given_images_only(imported: sc.Run) -> None:
    images, labels = tiny.images(30), np.arange(30) % 3
    np.savez(imported.path.parent / "toys.npz", images=images, labels=labels)
    figures = imported.evaluate(imported.path.parent / "toys.npz", only=["knn", "retrieval"]).figures
    assert list(figures) == ["raw pixels", "patches", "pretrained encoder", "untrained encoder", "trained encoder"]
    assert figures["untrained encoder"] != figures["trained encoder"]
    with pytest.raises(sc.DataError, match=r"was imported or exported without its images; name the images \(IMAGES\)"):
        imported.evaluate()
    assert imported.embed(images[:3]).shape == (3, 512)
    assert "eval/silhouette" in imported.evaluate(images, only=["label-free"]).figures["trained encoder"]


def test_training_starts_from_an_imported_run_with_its_encoder(imported: sc.Run, tmp_path: Path) -> None:
    settings = {name: value for name, value in tiny.SETTINGS.items() if name != "encoder"} | {
        "max_steps": 1,
        "lr": 0.0,
        "final_lr": 0.0,
        "threads": 1,
    }
    run = sc.train(tiny.images(), out=tmp_path / "run", init=str(imported.path), **settings)
    assert run.config.model.encoder == "resnet18"
    assert torch.equal(run.model.encoder.layer4[0].conv1.weight, imported.model.encoder.layer4[0].conv1.weight)
    with pytest.raises(sc.CheckpointError, match="since it was explored, imported or exported; train from it with --init"):
        sc.train(tiny.images(), out=imported.path, resume=True)


def test_an_imported_run_is_exported_with_its_origin(imported: sc.Run, tmp_path: Path) -> None:
    imported = sc.load(imported.path)
    assert imported.export("torchvision", out=tmp_path / "torchvision").difference.largest < 1e-4
    card = (imported.export("hub", out=tmp_path / "hub").path / "README.md").read_text()
    assert "imported from `ckp-3.pth`" in card
    assert "The weights are those of ckp-3.pth, whose license applies." in card
    assert "The training images are not recorded here." in card
    assert sc.load(imported.export("whole", out=tmp_path / "whole").path).config == imported.config
