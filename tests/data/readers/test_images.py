"""How images are decoded, and arrays of images."""

from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile

from selfcluster.data.readers.folder import FolderImages
from selfcluster.data.readers.images import ArrayImages, Decoded, read_array, sample_of
from selfcluster.errors import DataError
from tests.pictures import fill, paths, png


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def one(root: Path, name: str) -> torch.Tensor:
    """That file of a folder, decoded."""
    images = FolderImages(root)
    return images.decode(paths(images).index(name)).pixels


# ---- decoding

GOOD = {
    "cmyk_photo.jpg": (152, 160),
    "gray16.png": (64, 96),
    "rgba.png": (150, 200),
    "gray_alpha.png": (128, 128),
    "palette_transparency.png": (64, 64),
    "animated.gif": (100, 100),
    "exif_rotated.jpg": (128, 128),
    "photo.webp": (128, 128),
    "lzw.tif": (128, 128),
    "rle8.bmp": (128, 128),
    "photo.avif": (128, 128),
    "gray.jpg": (128, 128),
    "one_pixel.png": (1, 1),
    "tall_3x900.png": (900, 3),
}
BAD = {"truncated.jpg": "truncated", "empty.jpg": "empty", "notes.jpg": "not an image", "bomb_120mp.png": "12000 x 10000"}


def test_each_awkward_file_decodes_or_is_refused_with_a_reason(shared_data: Path) -> None:
    images = FolderImages(shared_data / "awkward")
    assert set(paths(images)) == GOOD.keys() | BAD.keys()
    for index, name in enumerate(paths(images)):
        if name in GOOD:
            pixels = images.decode(index).pixels
            assert (name, tuple(pixels.shape), pixels.dtype) == (name, (3, *GOOD[name]), torch.uint8)
        else:
            with pytest.raises(DataError, match=BAD[name]) as caught:
                images.decode(index)
            assert "\n" not in str(caught.value)
            assert str(images.root) not in str(caught.value)


@pytest.mark.parametrize("name", ["exif_rotated.jpg", "photo.webp", "photo.avif", "rle8.bmp"])
def test_one_photo_in_several_formats_is_the_same_upright_picture(shared_data: Path, name: str) -> None:
    reference = one(shared_data / "awkward", "lzw.tif").float()
    picture = one(shared_data / "awkward", name).float()
    assert (picture - reference).abs().mean() < 8
    assert (picture.rot90(1, (1, 2)) - reference).abs().mean() > 30


def test_heic_is_read_with_the_extra(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    picture = Image.fromarray(np.tile(np.linspace(0, 255, 96, dtype=np.uint8)[:, None, None], (1, 64, 3)))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "a.heic")
    picture.save(tmp_path / "b.HEIC", exif=turned.tobytes())
    assert (one(tmp_path, "a.heic").float() - torch.from_numpy(np.array(picture)).permute(2, 0, 1)).abs().mean() < 4
    assert one(tmp_path, "b.HEIC").shape == (3, 64, 96)
    assert FolderImages(tmp_path).decoded_size(1) == (64, 96)


def test_heic_without_the_extra_is_counted_and_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    fill(tmp_path, "a.png", "b.png")
    script = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from selfcluster.data.sources import open_data; from selfcluster.settings.config import DataSettings\n"
        f"data = open_data({str(tmp_path)!r}, DataSettings()); print(data.notes[-1])\n"
        "try: data.images.decode(2)\n"
        "except Exception as error: print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [
        "HEIC files need pip install 'selfcluster[heif]'; 1 cannot be read",
        "is HEIC, which needs pip install 'selfcluster[heif]'",
    ]


def test_cmyk_is_not_inverted(shared_data: Path) -> None:
    with Image.open(shared_data / "awkward" / "cmyk_photo.jpg") as image:
        c, m, y, k = np.moveaxis(np.asarray(image).astype(float), -1, 0)
    subtractive = np.stack([(255 - ink) * (255 - k) / 255 for ink in (c, m, y)])
    assert np.abs(one(shared_data / "awkward", "cmyk_photo.jpg").numpy() - subtractive).mean() < 3


def test_16_bits_are_scaled_to_8(shared_data: Path) -> None:
    with Image.open(shared_data / "awkward" / "gray16.png") as image:
        wide = np.asarray(image)
    assert wide.max() > 60000
    pixels = one(shared_data / "awkward", "gray16.png")
    assert (pixels.numpy() == np.round(wide / 257).astype(np.uint8)).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535]], np.uint16), [0, 1, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[-5, -5, -5]], np.int32), [0, 0, 0]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 200.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0.5, np.inf]], np.float32), [0, 128, 0]),
    ],
)
def test_wide_and_fractional_greys_keep_their_contrast(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert one(tmp_path, "a.tif")[:, 0].tolist() == [expected] * 3


def test_alpha_is_composited_over_white(shared_data: Path, tmp_path: Path) -> None:
    fill(tmp_path, "half.png", content=png(color=(0, 100, 255, 128), mode="RGBA"))
    fill(tmp_path, "none.png", content=png(color=(7, 0), mode="LA"))
    assert one(tmp_path, "half.png")[:, 0, 0].tolist() == pytest.approx([127, 177, 255], abs=1)
    assert (one(tmp_path, "none.png") == 255).all()
    for name in ("rgba.png", "gray_alpha.png", "palette_transparency.png"):
        with Image.open(shared_data / "awkward" / name) as image:
            clear = np.asarray(image.convert("RGBA"))[..., 3] == 0
        assert clear.any()
        assert (one(shared_data / "awkward", name).numpy()[:, clear] == 255).all()


def test_the_first_frame_is_taken(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (6, 6), (255, 0, 0)), Image.new("RGB", (6, 6), (0, 0, 255))
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert one(tmp_path, "a.gif")[:, 3, 3].tolist() == [255, 0, 0]


def test_exif_rotates_reduced_images_too(tmp_path: Path) -> None:
    image = Image.new("RGB", (800, 400), "black")
    image.paste((255, 255, 255), (0, 0, 800, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: what is on top comes to the right
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    pixels = one(tmp_path, "a.jpg")
    assert pixels.shape == (3, 800, 400)
    assert pixels[:, :, :190].max() < 20
    assert pixels[:, :, 210:].min() > 235
    images = FolderImages(tmp_path)
    reduced = images.decode(0, lambda height, width: 100 / width)
    assert reduced.size == (800, 400)
    assert reduced.pixels.shape == (3, 200, 100)
    assert images.decoded_size(0, lambda height, width: 100 / width) == (200, 100)
    assert images.decoded_size(0) == (800, 400)
    assert reduced.pixels[:, :, -1].min() > 235
    assert reduced.box(0, 200, 800, 200).shape == (3, 200, 50)
    assert reduced.box(0, 200, 800, 200)[:, :, 3:].min() > 235


@pytest.mark.parametrize(("share", "expected"), [(1.0, 800), (0.51, 800), (0.5, 400), (0.4, 400), (0.25, 200), (0.01, 100)])
def test_a_jpeg_is_decoded_at_the_next_larger_scale(tmp_path: Path, share: float, expected: int) -> None:
    rows = np.linspace(0, 255, 800).astype(np.uint8)
    Image.fromarray(np.tile(rows, (600, 1))).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(np.tile(rows, (600, 1))).save(tmp_path / "b.png")
    images = FolderImages(tmp_path)
    jpeg, png = (images.decode(index, lambda *_: share).pixels for index in (0, 1))
    assert jpeg.shape[2] == expected
    assert png.shape[2] == 800, "other formats are decoded in full"
    pooled = torch.nn.functional.adaptive_avg_pool2d(png.float(), jpeg.shape[1:])
    assert (pooled - jpeg.float()).abs().max() < 4


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (399, 299, 1, 1), (0, 0, 400, 300), (3, 7, 2, 5), (396, 0, 4, 300)])
def test_a_box_of_a_reduced_image_lies_in_it_and_is_never_empty(box: tuple[int, int, int, int]) -> None:
    image = Decoded(torch.arange(50 * 37).view(1, 50, 37).to(torch.uint8), (400, 300))
    height, width = image.box(*box).shape[1:]
    assert height == max(1, round((box[0] + box[2]) / 8) - round(box[0] / 8))
    assert width >= 1


def test_a_large_declared_size_is_refused_before_decoding(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: loaded.append(self) or load(self))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for look in (FolderImages.decode, FolderImages.decoded_size):
        images = FolderImages(shared_data / "awkward")
        with pytest.raises(DataError, match="over the limit of 100 megapixels"):
            look(images, paths(images).index("bomb_120mp.png"))
    assert not loaded
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < 50_000  # KB; decoded it would be 360 MB


def test_our_limit_applies_and_not_pillows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    fill(tmp_path, "a.png", content=png(size=(40, 30)))
    assert FolderImages(tmp_path).decode(0).pixels.shape == (3, 30, 40)
    with pytest.raises(DataError, match="declares 40 x 30 pixels"):
        FolderImages(tmp_path, max_megapixels=0.001).decode(0)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_deleted_file_is_an_unreadable_image(tmp_path: Path) -> None:
    images = FolderImages(fill(tmp_path, "a.png", "b.png"))
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match="no longer exists"):
        images.decode(0)
    assert [image.size for image in sample_of(images, 10)] == [(4, 5)]


def test_a_damaged_exif_block_does_not_warn(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01")
    assert one(tmp_path, "a.jpg").shape == (3, 8, 8)


# ---- arrays


@pytest.mark.parametrize(("shape", "channels"), [((6, 5, 4), 1), ((6, 5, 4, 1), 1), ((6, 5, 4, 3), 3)])
def test_arrays_of_three_shapes(shape: tuple[int, ...], channels: int) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    images = ArrayImages(array)
    assert len(images) == 6
    assert images.path(3) == "3"
    last = array.reshape(6, 5, 4, channels)
    assert (images.decode(2).pixels.numpy() == last[2].transpose(2, 0, 1)).all()
    assert (images.take(np.array([4, 1, 4])).numpy() == last[[4, 1, 4]].transpose(0, 3, 1, 2)).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), "float32.*uint8"),
        (np.zeros((2, 4, 4), np.int64), "int64.*uint8"),
        (np.zeros((4, 4), np.uint8), r"\(4, 4\)"),
        (np.zeros((2, 4, 4, 4), np.uint8), r"\(2, 4, 4, 4\).*\(N, H, W, 3\)$"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"transpose\(0, 2, 3, 1\)"),
        (np.zeros((0, 4, 4), np.uint8), "no images"),
        (np.zeros((2, 0, 4), np.uint8), "no images"),
    ],
)
def test_an_invalid_array_is_refused_with_a_reason(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArrayImages(array)


def test_the_digest_of_an_array_follows_its_pixels() -> None:
    array = np.zeros((5000, 2, 2), np.uint8)
    first = ArrayImages(array).digest()
    array[4999, 1, 1] = 1
    assert first == ArrayImages(np.zeros((5000, 2, 2), np.uint8)).digest() != ArrayImages(array).digest()


def test_an_array_file_is_memory_mapped_and_gives_large_batches(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3000, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    mapped = read_array(tmp_path / "x.npy")
    assert isinstance(mapped, np.memmap)
    index = np.random.default_rng(1).permutation(3000)
    batch = ArrayImages(mapped).take(index)
    assert (batch[:, 0].numpy() == array[index]).all()
    batch.zero_()  # a copy: the file stays as it is
    assert (np.load(tmp_path / "x.npy") == array).all()


def test_files_that_are_not_arrays_are_refused_in_one_line(tmp_path: Path) -> None:
    warnings.simplefilter("ignore", ResourceWarning)  # numpy leaves a damaged archive open
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04rubbish")
    np.save(tmp_path / "cut.npy", np.zeros((100, 8, 8), np.uint8))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:3000])
    for name in ("pickled.npy", "text.npy", "empty.npy", "half.npz", "cut.npy", "nothing.npy"):
        with pytest.raises(DataError, match=f"cannot read an array.*{name}") as caught:
            read_array(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_the_fingerprint_of_an_array_follows_every_pixel() -> None:
    array = np.zeros((600, 8, 8, 3), dtype=np.uint8)
    before = ArrayImages(array).fingerprint()
    assert ArrayImages(array.copy()).fingerprint() == before
    array[599, 7, 7, 2] = 1
    assert ArrayImages(array).fingerprint() != before
