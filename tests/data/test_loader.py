"""Batches are the same with any number of workers, after a resume, and with unreadable images."""

from __future__ import annotations

import dataclasses
import io
import itertools
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from selfcluster import distributed
from selfcluster.data.crops import MultiCrop
from selfcluster.data.loader import Batch, EpochPlan, Loader
from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import ArrayImages, Images
from selfcluster.errors import DataError
from tests.ranks import on_ranks

N = 24
CPU = torch.device("cpu")
BROKEN = (3, 4, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of several sizes; three of the files are truncated."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(N):
        content = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (12 + index % 3, 10, 3), dtype=np.uint8)).save(content, "png")
        whole = content.getvalue()
        (root / f"{index:02}.png").write_bytes(whole[: len(whole) // 2] if index in BROKEN else whole)
    return root


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> FolderImages:
    """Similar images, none of them broken."""
    root, rng = tmp_path_factory.mktemp("sound"), np.random.default_rng(1)
    for index in range(N):
        Image.fromarray(rng.integers(0, 256, (12 + index % 3, 10, 3), dtype=np.uint8)).save(root / f"{index:02}.png")
    return FolderImages(root)


made: list[Loader] = []


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while made:
        made.pop().close()


def loader(images: Images, *, batch: int = 5, workers: int = 0, share: float = 1.0) -> Loader:
    crops = MultiCrop((2, 1), (8, 4), ((0.3, 1.0), (0.1, 0.3)))
    made.append(Loader(images, crops, batch=batch, seed=7, device=torch.device("cpu"), workers=workers, max_broken_share=share))
    return made[-1]


def plan(seed: int = 0, n: int = N) -> EpochPlan:
    return EpochPlan(np.random.default_rng(seed).permutation(n))


def same(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.index, b.index) and all(torch.equal(x, y) for x, y in zip(a.crops, b.crops, strict=True))
        for a, b in zip(first, second, strict=True)
    )


def test_batches_follow_the_order_and_the_last_partial_one_is_dropped(sound: FolderImages) -> None:
    order = plan()
    batches = list(loader(sound).epoch(0, order))
    assert loader(sound).n_steps(order) == len(batches) == 4
    assert torch.cat([batch.index for batch in batches]).tolist() == order.order[:20].tolist()
    assert [tuple(crops.shape) for crops in batches[0].crops] == [(5, 3, 8, 8), (5, 3, 8, 8), (5, 3, 4, 4)]


def test_the_crops_are_those_of_the_images_in_the_batch(sound: FolderImages) -> None:
    """Compared with the crops of each image alone."""
    crops = MultiCrop((2, 1), (8, 4), ((0.3, 1.0), (0.1, 0.3)))
    for batch in loader(sound).epoch(3, plan()):
        for row, index in enumerate(batch.index.tolist()):
            alone = crops([sound.decode(index)], index, seed=7, epoch=3)
            for ours, reference in zip(batch.crops, alone, strict=True):
                torch.testing.assert_close(ours[row], reference[0], rtol=1e-5, atol=1e-5)


def test_workers_change_nothing(sound: FolderImages) -> None:
    here, there = loader(sound), loader(sound, workers=2)
    for epoch in (0, 1):
        assert same(list(here.epoch(epoch, plan(epoch))), list(there.epoch(epoch, plan(epoch))))


def test_an_epoch_resumed_in_the_middle_has_the_same_batches(sound: FolderImages) -> None:
    whole = list(loader(sound).epoch(1, plan()))
    for start in (0, 1, 3, 4):
        assert same(whole[start:], list(loader(sound).epoch(1, plan(), start=start)))
    workers = loader(sound, workers=2)
    assert same(whole[2:], list(workers.epoch(1, plan(), start=2)))
    # An epoch that is left in the middle does not affect the next.
    list(itertools.islice(workers.epoch(0, plan(5)), 1))
    assert same(whole, list(workers.epoch(1, plan())))


def test_each_epoch_and_each_occurrence_has_different_crops(sound: FolderImages) -> None:
    repeated = EpochPlan(np.array([6, 6, 2, 6, 2]))
    (first,), (second,) = (list(loader(sound).epoch(epoch, repeated)) for epoch in (0, 1))
    large = first.crops[0]
    assert first.index.tolist() == [6, 6, 2, 6, 2]
    for a, b in ((0, 1), (0, 3), (1, 3), (2, 4)):
        assert not torch.equal(large[a], large[b])
    assert not torch.equal(large, second.crops[0])
    # The first occurrence has the crops of an order without repetitions.
    (alone,) = loader(sound, batch=2).epoch(0, EpochPlan(np.array([6, 2])))
    torch.testing.assert_close(alone.crops[0], large[[0, 2]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_in_memory_with_and_without_workers(channels: int) -> None:
    images = ArrayImages(np.random.default_rng(0).integers(0, 256, (N, 12, 10, channels), dtype=np.uint8))
    here = list(loader(images).epoch(0, plan()))
    assert torch.cat([batch.index for batch in here]).tolist() == plan().order[:20].tolist()
    assert same(here, list(loader(images, workers=2).epoch(0, plan())))


# ---- broken images


def replaced(order: list[int], broken: tuple[int, ...], batch: int) -> list[int]:
    """The image at each position, or the next readable one, by a plain loop."""
    out = []
    for place in range(len(order) // batch * batch):
        while order[place % len(order)] in broken:
            place += 1
        out.append(order[place % len(order)])
    return out


@pytest.mark.parametrize("seed", [0, 1])
def test_a_broken_image_is_replaced_by_the_next_readable_one(folder: Path, seed: int) -> None:
    images, order = FolderImages(folder), plan(seed)
    first = loader(images, batch=6)
    batches = list(first.epoch(0, order))
    assert torch.cat([batch.index for batch in batches]).tolist() == replaced(order.order.tolist(), BROKEN, 6)
    assert sorted(first.broken) == list(BROKEN)
    assert all("\n" not in reason and reason for reason in first.broken.values())
    # The batches are the same with workers, and with broken images known from before, as after a resume.
    workers = loader(images, batch=6, workers=2)
    assert same(batches, list(workers.epoch(0, order)))
    assert workers.broken == first.broken
    for known in (first.broken, {4: "known from before"}):
        again = loader(images, batch=6)
        again.broken = dict(known)
        assert same(batches[1:], list(again.epoch(0, order, start=1)))
        assert again.broken.keys() <= first.broken.keys()
        assert again.broken[4] == known[4]


def test_a_replacement_has_different_crops(folder: Path) -> None:
    (batch,) = loader(FolderImages(folder), batch=4).epoch(0, EpochPlan(np.array([3, 4, 5, 6])))
    assert batch.index.tolist() == [5, 5, 5, 6]
    large = batch.crops[0]
    assert not torch.equal(large[0], large[1])
    assert not torch.equal(large[0], large[2])
    (alone,) = loader(FolderImages(folder), batch=1).epoch(0, EpochPlan(np.array([5])))
    torch.testing.assert_close(alone.crops[0][0], large[2], rtol=1e-5, atol=1e-5)


def test_the_last_image_of_an_order_that_is_one_batch_may_be_broken(folder: Path) -> None:
    images = FolderImages(folder)
    (batch,) = loader(images, batch=4).epoch(0, EpochPlan(np.array([8, 9, 3, 4])))
    assert batch.index.tolist() == [8, 9, 8, 8]
    assert len({tuple(crop.flatten().tolist()) for crop in batch.crops[0]}) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_images_stop_the_run(folder: Path, workers: int) -> None:
    images = FolderImages(folder)
    order = EpochPlan(np.arange(N))
    stopped = loader(images, workers=workers, share=0.1)  # 2.4 images
    with pytest.raises(DataError, match=r"^3 of 24 images .*first: '03\.png' .*max_broken_share 0\.1;") as caught:
        list(stopped.epoch(0, order))
    assert "\n" not in str(caught.value)
    assert stopped.broken[3] in str(caught.value)
    assert sorted(stopped.broken) == list(BROKEN)
    assert len(list(loader(images, workers=workers, share=0.125).epoch(0, order))) == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_if_nothing_can_be_read_the_error_names_the_first_file_and_its_reason(tmp_path: Path, workers: int) -> None:
    for index in range(6):
        (tmp_path / f"{index}.png").write_text("no image")
    for share, n in ((0.1, "6 of 6 images"), (1.0, "6 images in a row")):
        stopped = loader(FolderImages(tmp_path), batch=2, workers=workers, share=share)
        with pytest.raises(DataError, match=rf"^{n} cannot be read \(first: '2\.png' is not an image\)") as caught:
            list(stopped.epoch(0, EpochPlan(np.array([2, 0, 1, 3, 5, 4]))))
        assert "\n" not in str(caught.value)
        assert sorted(stopped.broken) == [0, 1, 2, 3, 4, 5]


def test_workers_stay_between_epochs_and_stop_after_an_error_or_a_break(folder: Path) -> None:
    def alive() -> set[int]:
        return {child.pid for child in multiprocessing.active_children() if child.pid not in before}

    before = {child.pid for child in multiprocessing.active_children()}
    workers = loader(FolderImages(folder), workers=2)
    list(workers.epoch(0, plan()))
    kept = alive()
    list(workers.epoch(1, plan()))
    assert len(kept) == 2
    assert alive() == kept
    list(itertools.islice(workers.epoch(2, plan()), 1))
    assert not alive()
    assert len(list(workers.epoch(2, plan()))) == 4
    workers.max_broken_share = 0.0
    with pytest.raises(DataError):
        list(workers.epoch(3, plan()))
    assert not alive()


# ---- ranks, waiting, memory


def _of_this_rank(root: str) -> list[tuple[list[int], list[Tensor]]]:
    batches = loader(FolderImages(root), batch=6).epoch(2, plan())
    return [(batch.index.tolist(), batch.crops) for batch in batches]


def test_each_rank_takes_its_slice_of_every_global_batch(folder: Path) -> None:
    first, second = on_ranks(_of_this_rank, str(folder))
    assert distributed.n_ranks() == 1
    for (index_0, crops_0), (index_1, crops_1), whole in zip(
        first, second, loader(FolderImages(folder), batch=6).epoch(2, plan()), strict=True
    ):
        assert index_0 + index_1 == whole.index.tolist()
        for a, b, both in zip(crops_0, crops_1, whole.crops, strict=True):
            torch.testing.assert_close(torch.cat([a, b]), both, rtol=1e-5, atol=1e-5)


def test_the_wait_is_counted(sound: FolderImages) -> None:
    counted = loader(sound)
    batches: Iterator[Batch] = counted.epoch(0, plan())
    assert counted.wait_seconds == 0
    next(batches)
    one = counted.wait_seconds
    next(batches)
    assert 0 < one < counted.wait_seconds


@pytest.mark.gpu
def test_on_a_gpu_crops_are_pinned_and_the_same(sound: FolderImages) -> None:
    crops = MultiCrop((2, 1), (8, 4), ((0.3, 1.0), (0.1, 0.3)))
    there = Loader(sound, crops, batch=5, seed=7, device=torch.device("cuda"), workers=2)
    there._tasks.next_up = iter([there._task(0, plan(), 0)])
    assert all(cut.is_pinned() for cut in next(iter(there._loader)).crops)
    for ours, reference in zip(there.epoch(0, plan()), loader(sound).epoch(0, plan()), strict=True):
        assert torch.equal(ours.index, reference.index)
        for a, b in zip(ours.crops, reference.crops, strict=True):
            assert a.device.type == "cuda"
            torch.testing.assert_close(a.cpu(), b, rtol=1e-4, atol=1e-4)


def test_without_a_gpu_no_stream_is_used(sound: FolderImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(stream: object) -> None:  # torch.cuda.stream(None) looks for a device, and fails on other accelerators
        raise AssertionError("a stream was used")

    monkeypatch.setattr(torch.cuda, "stream", refuse)
    next(iter(loader(sound).epoch(0, plan())))


def test_crops_come_again_after_some_epochs_and_an_image_that_occurs_twice_gets_the_next_ones(sound: FolderImages) -> None:
    def crops(epoch: int, order: list[int], repeat_after: int = 3) -> Tensor:
        given = Loader(sound, MultiCrop((1,), (8,), ((0.3, 1.0),)), batch=len(order), seed=7, device=CPU, repeat_after=repeat_after)
        return next(given.epoch(epoch, EpochPlan(np.array(order)))).crops[0]

    views = torch.stack([crops(epoch, [2])[0] for epoch in range(3)])
    assert not any(torch.equal(views[a], views[b]) for a, b in ((0, 1), (1, 2), (0, 2)))
    assert torch.equal(crops(4, [5, 2, 2])[1:], views[[1, 2]])
    assert not torch.equal(crops(4, [2], repeat_after=0)[0], views[1])


def test_occurrence_counts_earlier_places_of_the_same_index() -> None:
    plan = EpochPlan(np.array([4, 2, 4, 4, 0, 2]))
    assert plan.occurrence.tolist() == [0, 0, 1, 2, 0, 1]


def test_occurrence_of_a_long_order() -> None:
    order = np.random.default_rng(0).integers(0, 50, size=1000)
    seen: dict[int, int] = {}
    expected = []
    for index in order.tolist():
        expected.append(seen.get(index, 0))
        seen[index] = expected[-1] + 1
    assert EpochPlan(order).occurrence.tolist() == expected


@pytest.mark.parametrize("order", [[], [7], [3, 1, 2]])
def test_occurrence_is_zero_without_repetitions(order: list[int]) -> None:
    assert EpochPlan(np.array(order, dtype=np.int64)).occurrence.tolist() == [0] * len(order)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EpochPlan(np.arange(3)).order = np.arange(4)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Batch(torch.arange(2), [torch.zeros(2, 3, 4, 4)]).index = torch.arange(3)  # type: ignore[misc]
