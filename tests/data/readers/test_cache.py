"""Cached images: the same images, decoded once."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfcluster.data.dataset import Data
from selfcluster.data.readers.cache import CachedImages, decoded_bytes
from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import Decoded, MinScale, full_scale
from selfcluster.errors import DataError
from selfcluster.training import loop, state
from tests import tiny

N = 12


class Counted(FolderImages):
    """Counts what is decoded."""

    n_decoded = 0

    def decode(self, index: int, min_scale: MinScale = full_scale) -> Decoded:
        self.n_decoded += 1
        return super().decode(index, min_scale)


@pytest.fixture
def folder(tmp_path: Path) -> Counted:
    """Noise of several sizes in two folders; image 3 is broken."""
    rng = np.random.default_rng(0)
    for index in range(N):
        (tmp_path / "ab"[index % 2]).mkdir(exist_ok=True)
        file = tmp_path / "ab"[index % 2] / f"{index:02}.png"
        Image.fromarray(rng.integers(0, 256, (12 + index % 3, 10, 3), dtype=np.uint8)).save(file)
    images = Counted(tmp_path)
    (tmp_path / images.path(3)).write_bytes(b"no image")
    return images


def cached(images: FolderImages, n_bytes: int = 10**6, min_scale: MinScale = full_scale) -> CachedImages:
    return CachedImages(images, min_scale, n_bytes)


def test_images_are_the_same_and_are_decoded_once(folder: Counted) -> None:
    plain, kept = FolderImages(folder.root), cached(folder)
    for _ in range(3):
        for index in [5, 0, 11, 5]:
            image = kept.decode(index)
            assert torch.equal(image.pixels, plain.decode(index).pixels)
            assert image.pixels.stride() == plain.decode(index).pixels.stride(), "or resizing might round differently"
            assert image.size == plain.decode(index).size
    assert folder.n_decoded == 3


def test_it_is_the_same_collection(folder: Counted) -> None:
    kept = cached(folder)
    assert len(kept) == len(folder)
    assert kept.path(4) == folder.path(4)
    assert kept.paths() == folder.paths()
    assert kept.digest() == folder.digest()
    assert kept.labels is folder.labels is not None
    assert kept.decoded_size(2) == folder.decoded_size(2)


def test_a_broken_image_is_broken_each_time(folder: Counted) -> None:
    kept = cached(folder)
    for _ in range(2):
        with pytest.raises(DataError, match="not an image"):
            kept.decode(3)


def test_what_does_not_fit_is_decoded_again(folder: Counted) -> None:
    plain = FolderImages(folder.root)
    kept = cached(folder, n_bytes=2 * 3 * 14 * 10)
    for _ in range(2):
        for index in (0, 1, 2, 4):
            assert torch.equal(kept.decode(index).pixels, plain.decode(index).pixels)
    assert folder.n_decoded > 4


def test_images_are_decoded_at_the_scale_of_the_cache(tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), "red").save(tmp_path / "a.jpg")
    kept = cached(FolderImages(tmp_path), min_scale=lambda height, width: 0.5)
    for min_scale in (full_scale, lambda height, width: 0.1):
        image = kept.decode(0, min_scale)
        assert image.pixels.shape == (3, 100, 200)
        assert image.size == (200, 400)


def _look(kept: CachedImages, answers: multiprocessing.Queue) -> None:
    answers.put([kept.decode(index).pixels.numpy().copy() for index in (0, 1, 2)])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_the_cache(folder: Counted, method: str) -> None:
    kept = cached(folder)
    kept.decode(0)
    context = multiprocessing.get_context(method)
    answers = context.Queue()
    kept.lock = context.Lock()
    process = context.Process(target=_look, args=(kept, answers))
    process.start()
    theirs = answers.get(timeout=60)
    process.join()
    for index in (0, 1, 2):
        assert (kept.decode(index).pixels.numpy() == theirs[index]).all()
    assert folder.n_decoded == 1, "images decoded by another process are shared"
    assert kept.file.exists(), "a worker does not remove the file"


def test_threads_share_the_cache(folder: Counted) -> None:
    plain, kept = FolderImages(folder.root), cached(folder)
    wanted = [index for index in range(N) if index != 3] * 20
    with ThreadPoolExecutor(4) as pool:
        for index, image in zip(wanted, pool.map(kept.decode, wanted), strict=True):
            assert torch.equal(image.pixels, plain.decode(index).pixels)


def test_the_file_is_gone_with_the_images(folder: Counted) -> None:
    kept = cached(folder)
    file = kept.file
    assert file.exists()
    del kept
    assert not file.exists()


def test_without_room_nothing_is_left_behind(folder: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(OSError, match=r".+"):
        cached(folder, n_bytes=2**60)
    assert not list(tmp_path.glob("*.images"))


def test_the_estimate_follows_the_sizes(folder: Counted) -> None:
    exact = sum(3 * h * w for h, w in (folder.decoded_size(index) for index in range(N) if index != 3)) * N / (N - 1)
    assert exact <= decoded_bytes(folder, full_scale) <= 1.1 * exact
    assert folder.n_decoded == 0


def test_training_caches_images_that_fit_and_logs_it(folder: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Data("folder", str(folder.root), folder)
    assert "decoded images are cached" in _cache(tiny.training(given, max_broken_share=1.0)).note()
    for settings in (dict(cache_gib=0.0), dict(cache_gib=1e-9)):
        assert tiny.training(given, **settings).loader.images is folder
    assert tiny.training().loader.images.in_memory, "images in memory are not cached again"

    reserve = os.posix_fallocate

    def on_a_full_disk(handle: int, start: int, n: int) -> None:
        if n > 2000:
            raise OSError(28, "No space left on device")
        reserve(handle, start, n)

    monkeypatch.setattr(os, "posix_fallocate", on_a_full_disk)
    without_room = _cache(tiny.training(given))
    assert "no room" in without_room.note()
    assert torch.equal(without_room.decode(1).pixels, FolderImages(folder.root).decode(1).pixels)


def test_epochs_train_on_the_same_crops_with_and_without_the_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(16):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((400, 300), Image.Resampling.BICUBIC).save(tmp_path / f"{index:02}.jpg")
    losses = {}
    for n_bytes in (0, 10**7):
        given = Data("folder", str(tmp_path), CachedImages(FolderImages(tmp_path), lambda *_: 0.5, n_bytes))
        t, log = tiny.training(given, epochs=3, cache_gib=0.0), tiny.Silent()
        loop.fit(t, log, None)
        losses[n_bytes] = log.losses()
        t.loader.close()
    assert losses[0] == losses[10**7]


def _cache(t: state.Training) -> CachedImages:
    assert isinstance(t.loader.images, CachedImages)
    return t.loader.images
