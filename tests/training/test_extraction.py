"""Each image goes through the network once, and its row is stored by its index: over ranks, views and modes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfcluster import randomness
from selfcluster.data.crops import MultiCrop
from selfcluster.data.dataset import Data
from selfcluster.data.sources import open_data
from selfcluster.errors import DataError, DivergenceError
from selfcluster.models.features import extract_features
from selfcluster.models.rows import Rows
from selfcluster.settings.config import DataSettings
from selfcluster.training import extraction, loop, state
from selfcluster.training.extraction import extractor
from tests import tiny
from tests.ranks import on_ranks

N = 35
"""Odd, and no multiple of the batch."""
VIEWS: list[dict[str, Any]] = [dict(view="center"), dict(view="assign"), dict(view="assign", train_mode=True)]


def _training(data: Data | None = None, **settings: Any) -> state.Training:
    return tiny.training(data if data is not None else tiny.data(N), "deepcluster-v2", **settings)


def _extract(
    t: state.Training, what: str, *, epoch: int = 0, log: tiny.Silent | None = None, folder: Path | None = None, **how: Any
) -> Rows:
    return extractor(t, epoch, log or tiny.Silent(), folder)(what, **how)  # type: ignore[arg-type]


def _state(t: state.Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in t.model.state_dict().items()}


@pytest.mark.parametrize("what", ["features", "embeddings"])
def test_the_center_view_is_the_network_in_eval_mode_on_whole_images(what: str) -> None:
    t = _training()
    rows = _extract(t, what)
    network = t.model.encode if what == "features" else t.model.project
    t.model.eval()
    wanted = extract_features(network, t.loader.images, pixels=16, device=t.device, batch=10)
    assert rows.index.tolist() == list(range(N))
    np.testing.assert_allclose(rows.values, wanted.numpy(), rtol=1e-4, atol=1e-5)
    if what == "embeddings":
        np.testing.assert_allclose(np.linalg.norm(rows.values, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("what", ["features", "embeddings"])
@torch.no_grad()
def test_the_assign_view_is_the_network_on_the_counted_crops_of_the_epoch(what: str) -> None:
    t = _training(n_crops=(3, 2))
    rows = _extract(t, what, epoch=5, view="assign")
    c = t.config.crops
    crops = MultiCrop(c.n_crops, c.crop_pixels, c.area, t.config.augment)(
        t.loader.images.take(np.arange(N)), np.arange(N), seed=t.config.run.seed, epoch=5
    )
    t.model.eval()
    network = t.model.encode if what == "features" else t.model.project
    wanted = torch.stack([network(crop) for crop in crops[:3]], dim=1)
    assert rows.index.tolist() == list(range(N))
    assert rows.values.shape == (N, 3, 128 if what == "features" else 16)
    np.testing.assert_allclose(rows.values, wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_only_images_to_train_on_are_read() -> None:
    t = _training(test_share=0.25)
    for how in VIEWS:
        assert _extract(t, "embeddings", **how).index.tolist() == t.method.trained_on.tolist()


@pytest.mark.parametrize("how", VIEWS)
def test_modes_are_restored_and_statistics_change_only_in_train_mode(how: dict[str, Any]) -> None:
    t = _training()
    t.model.encoder.layer1.eval()  # frozen in a network that trains
    modes = [part.training for part in t.model.modules()]
    assert len(set(modes)) == 2
    before = _state(t)
    rows = _extract(t, "embeddings", **how)
    assert [part.training for part in t.model.modules()] == modes
    changed = {name for name, value in _state(t).items() if not torch.equal(value, before[name])}
    assert all(name.rsplit(".", 1)[1] in ("running_mean", "running_var", "num_batches_tracked") for name in changed)
    assert bool(changed) == how.get("train_mode", False)
    assert not any(p.grad is not None for p in t.model.parameters())
    assert np.isfinite(rows.values).all()


def test_train_mode_normalizes_by_the_batch_and_fills_the_last_one_up() -> None:
    """With the initial statistics, eval mode gives nearly the same embedding for every image; train mode must not."""

    def length_of_mean(train_mode: bool) -> float:
        rows = _extract(_training(), "embeddings", view="assign", train_mode=train_mode)
        return float(np.square(rows.values[:, 0].mean(axis=0)).sum())

    assert length_of_mean(True) < length_of_mean(False) - 0.2
    # 35 images in batches of 34: if the last one was not filled up, batch norm would fail on a single image.
    rows = _extract(_training(batch=34), "embeddings", view="assign", train_mode=True)
    assert rows.index.tolist() == list(range(N))
    assert np.isfinite(rows.values).all()


def test_dropout_follows_the_epoch_and_nothing_else() -> None:
    t = tiny.training(tiny.data(12), "deepcluster", dropout=0.5)

    def drawn(epoch: int) -> np.ndarray:
        torch.rand(7)
        return _extract(t, "embeddings", epoch=epoch, view="assign", train_mode=True).values

    assert np.array_equal(drawn(0) == 0, drawn(0) == 0)
    assert (drawn(0) == 0).mean() > 0.4


def test_features_above_the_budget_go_through_a_file_and_are_the_same(tmp_path: Path) -> None:
    for how in VIEWS:
        within = _extract(_training(), "features", folder=tmp_path, **how)
        above = _extract(_training(features_gib=0.0), "features", folder=tmp_path, **how)
        assert not isinstance(within.values, np.memmap)
        assert isinstance(above.values, np.memmap)
        assert Path(above.values.filename).parent == tmp_path
        assert list(tmp_path.iterdir()) == []
        assert np.array_equal(within.index, above.index)
        assert np.array_equal(within.values, above.values)


def test_bf16_returns_similar_float32_rows() -> None:
    for how in VIEWS[:2]:
        exact = _extract(_training(crop_pixels=(32, 16)), "embeddings", **how)
        coarse = _extract(_training(crop_pixels=(32, 16), precision="bf16"), "embeddings", **how)
        assert coarse.values.dtype == np.float32
        assert not np.array_equal(exact.values, coarse.values)
        np.testing.assert_allclose(exact.values, coarse.values, rtol=0, atol=0.05)
        np.testing.assert_allclose(np.linalg.norm(coarse.values, axis=-1), 1, rtol=1e-5)
    assert not torch.is_autocast_enabled("cpu")


def test_autocast_ends_when_extraction_fails() -> None:
    t = _training(precision="bf16", crop_pixels=(32, 16))
    with torch.no_grad():
        t.model.encoder.conv1.weight.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="features are not finite at step 0") as caught:
        _extract(t, "features")
    assert not torch.is_autocast_enabled("cpu"), "while the traceback still refers to the interrupted extraction"
    assert caught.tb is not None
    assert t.model.training


def _reason(t: state.Training, image: int) -> str:
    with pytest.raises(DataError) as caught:
        t.loader.images.decode(image)
    return str(caught.value)


@pytest.mark.parametrize("how", VIEWS)
def test_broken_images_are_left_out_and_noted_with_the_reason(tmp_path: Path, how: dict[str, Any]) -> None:
    # The last one is replaced by the first, whose row must remain that of its own crops.
    broken = {7, int(randomness.permutation(30, 0, 0, extraction._ORDER)[-1])}
    assert len(broken) == 2
    t, log = _training(tiny.folder_of_images(tmp_path, 30, broken=tuple(broken)), workers=0), tiny.Silent()
    rows = _extract(t, "embeddings", log=log, **how)
    assert rows.index.tolist() == [i for i in range(30) if i not in broken]
    assert set(t.loader.broken) == broken
    assert set(t.loader.broken.values()) == {_reason(t, 7)}
    assert log.worked[-1][1:] == (30, 30), "progress reaches its end"
    whole = tiny.data(30)
    if not how.get("train_mode"):  # in train mode, the rest of the batch matters
        intact = _extract(_training(whole), "embeddings", **how)
        # Crops of a whole array and of one image differ by a grey level here and there.
        np.testing.assert_allclose(rows.values, intact.values[rows.index], rtol=0, atol=0.01)


def test_workers_change_nothing(tmp_path: Path) -> None:
    data = tiny.folder_of_images(tmp_path, 20)
    for how in (VIEWS[0], VIEWS[2]):
        here, there = (_extract(_training(data, workers=workers), "embeddings", **how) for workers in (0, 2))
        assert np.array_equal(here.values, there.values)


def test_progress_is_reported() -> None:
    log = tiny.Silent()
    _extract(_training(), "features", log=log)
    assert log.worked == [("extracting features", N, N)]
    log = tiny.Silent()
    _extract(_training(), "embeddings", log=log, view="assign")
    assert log.worked == [("extracting embeddings", min(done, N), N) for done in range(8, N + 8, 8)]


def _on_a_rank() -> list[tuple[np.ndarray, np.ndarray]]:
    return [(rows.index, rows.values) for rows in (_extract(_training(), "embeddings", **how) for how in VIEWS)]


def test_two_ranks_give_the_rows_of_one() -> None:
    for (index, values), left, right in zip(_on_a_rank(), *on_ranks(_on_a_rank), strict=True):
        assert abs(len(left[0]) - len(right[0])) < 8
        assert (np.diff(left[0]) > 0).all()
        assert (np.diff(right[0]) > 0).all()
        both = np.concatenate([left[0], right[0]])
        assert np.array_equal(np.sort(both), index)
        np.testing.assert_allclose(np.concatenate([left[1], right[1]])[np.argsort(both)], values, rtol=1e-3, atol=1e-4)


def _steps_where_one_rank_can_read_nothing(folder: str) -> tuple[int, list[float]]:
    data = open_data(folder, DataSettings())
    t, log = tiny.training(data, "deepcluster", max_steps=3, log_steps=1, workers=0, max_broken_share=1.0, n_prototypes=4), tiny.Silent()
    loop.fit(t, log, None)
    rows = _extract(t, "features")
    return rows.values.shape[1] if len(rows.index) == 0 else -1, log.losses()


def test_a_rank_that_can_read_none_of_its_images_takes_part(tmp_path: Path) -> None:
    tiny.folder_of_images(tmp_path, 24, broken=tuple(range(12, 24)))
    (_, left), (width, right) = on_ranks(_steps_where_one_rank_can_read_nothing, str(tmp_path))
    assert width == 128
    assert len(left) == 3
    assert left == right
