from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import selfcluster as sc
from selfcluster.data.crops import normalize
from selfcluster.data.readers.images import ArrayImages
from selfcluster.device import precision_of
from selfcluster.evaluation.representations import Network, Pixels, representations
from selfcluster.runs.run import OpenRun
from selfcluster.settings.config import BUNDLED, replace
from tests import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> sc.Run:
    folder = tmp_path_factory.mktemp("runs")
    return sc.train(tiny.images(), out=folder / "run", **{**tiny.SETTINGS, "epochs": 1, "threads": 1})


IMAGES = ArrayImages(tiny.images(24))


def _unseen(_: int) -> None:
    pass


def test_baselines_come_first_then_the_encoders_beside_then_the_run(run: sc.Run) -> None:
    found = list(representations(run.opened, IMAGES, ("resnet10_small_quarter_s2", str(run.path)), untrained=True))
    assert [r.name for r in found] == [
        "raw pixels",
        "patches",
        "pretrained encoder",
        "untrained encoder",
        "resnet10_small_quarter_s2, untrained",
        "run run",
        "trained encoder",
    ]
    assert isinstance(found[0], Pixels)
    index = np.arange(24)
    rows = [r.of_images(IMAGES, index, _unseen) for r in found]
    assert torch.equal(rows[5], rows[6]), "the run beside itself"
    assert rows[1].shape == (24, 512)
    assert rows[6].numpy() == pytest.approx(run.embed(tiny.images(24)), abs=1e-6)
    assert not torch.allclose(rows[3], rows[6], atol=1e-3)
    assert rows[4].shape == (24, 128)


def test_the_pretrained_encoder_is_that_of_explore(run: sc.Run, tmp_path: Path) -> None:
    images = tiny.images(24, pixels=40)
    explored = sc.explore(images, out=tmp_path / "explored", k=2, device="cpu")
    floor = list(representations(run.opened, ArrayImages(images)))[2]
    assert (floor.name, floor.pixels) == ("pretrained encoder", 128)
    same, features = explored.embed(images), floor.of_images(ArrayImages(images), np.arange(24), _unseen).numpy()
    in_bf16 = precision_of(explored.config, torch.device("cpu")) == torch.bfloat16  # there, the floor has the run's precision, float32
    assert np.linalg.norm(features - same) < (0.12 if in_bf16 else 1e-4) * np.linalg.norm(same)
    assert [r.name for r in representations(explored.opened, IMAGES)] == ["raw pixels", "patches", "pretrained encoder"]
    with_another = OpenRun(explored.path, replace(explored.config, {"encoder": "resnet18.a1_in1k"}), "", explored.model)
    names = [r.name for r in representations(with_another, IMAGES)]
    assert names == ["raw pixels", "patches", "pretrained encoder", "resnet18.a1_in1k"], "another one has its own name"


def test_the_pretrained_encoder_is_left_out_where_training_started_from_it(tmp_path: Path) -> None:
    settings = {**tiny.SETTINGS, "method": "swav", "init": "pretrained", "encoder": BUNDLED, "crop_pixels": (64, 32), "max_steps": 1}
    run = sc.train(tiny.images(16), out=tmp_path / "run", **settings)
    assert [r.name for r in representations(run.opened, IMAGES)] == ["raw pixels", "patches", "encoder before training", "trained encoder"]


def test_pixels_of_whole_images_and_of_crops_are_on_one_scale() -> None:
    pixels = Pixels("raw pixels", 20, tiny.config(), torch.device("cpu"))
    whole = pixels.of_images(IMAGES, np.arange(24), _unseen)
    assert pixels.of_crops(normalize(IMAGES.take(np.arange(24)))).numpy() == pytest.approx(whole.numpy(), abs=1e-5)


def test_views_are_in_the_order_of_the_index_whatever_is_broken(tmp_path: Path, run: sc.Run) -> None:
    broken = tiny.folder_of_images(tmp_path, 30, broken=(7, 20)).images
    pixels = Pixels("raw pixels", 16, run.config, torch.device("cpu"))
    index = np.array([3, 6, 8, 19, 21, 25, 26])
    first, second = pixels.of_views(broken, index)
    assert first.shape == second.shape == (7, 3 * 16 * 16)
    assert not torch.allclose(first, second)
    for row, image in enumerate(index):
        alone = pixels.of_views(broken, np.array([image]))
        assert torch.allclose(alone[0][0], first[row], atol=1e-5), "a view is the image's own, whatever is around it"
    with_broken, _ = pixels.of_views(broken, np.array([3, 7, 8]))
    assert len(with_broken) == 2


def test_prototypes_are_those_nearest_to_the_embeddings(run: sc.Run) -> None:
    (network,) = representations(run.opened, IMAGES, baselines=False)
    assert isinstance(network, Network)
    features = network.of_images(IMAGES, np.arange(24), _unseen)
    nearest, n = network.prototypes_of(features)
    wanted = torch.from_numpy(run.embed(tiny.images(24), layer="head")) @ run.model.prototypes.weight.detach().cpu().T
    assert n == 8
    assert (nearest == wanted.argmax(dim=1).numpy()).all()


def test_a_folder_beside_that_is_not_a_run_is_refused(run: sc.Run, tmp_path: Path) -> None:
    with pytest.raises(sc.CheckpointError, match="is not a run folder"):
        next(representations(run.opened, IMAGES, (str(tmp_path),)))
