"""Folders of image files: layout, decoding, resizing, and what is refused."""

import io
import struct
import zlib

import keras
import numpy as np
import pytest
from PIL import Image

from kerascnn import UsageError, data
from kerascnn.__main__ import main
from kerascnn.data import image_folders


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def pets(tmp_path):
    """Ten training and two test images of cats and dogs each, 9 x 7, without loss."""
    for split, count in (("train", 10), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = noise(9, 7, 3, seed=100 * label + i + 50 * (split == "test"))
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "pets"


def test_every_image_comes_once_with_its_class(pets):
    (pets / "train" / "cat" / "notes.txt").write_text("no image")
    (pets / "train" / "dog" / ".hidden.png").write_text("no image")
    loaded = data.load(str(pets))
    assert loaded.classes == ("cat", "dog")
    assert (len(loaded.train), len(loaded.test)) == (20, 4)
    expected = {noise(9, 7, 3, seed=s).tobytes(): s // 100 for s in range(10)}
    expected |= {noise(9, 7, 3, seed=100 + s).tobytes(): 1 for s in range(10)}
    found = zip(loaded.train.images, loaded.train.labels, strict=True)
    assert {image.tobytes(): label for image, label in found} == expected
    # Mixed, so that the first few are not all of one class.
    assert 0 < loaded.train.labels[:10].sum() < 10


def test_a_changed_file_is_decoded_again(pets):
    before = data.load(str(pets))
    Image.fromarray(noise(9, 7, 3, seed=7777)).save(pets / "train" / "cat" / "0.png")
    after = data.load(str(pets))
    assert before.hash != after.hash
    assert noise(9, 7, 3, seed=7777).tolist() in after.train.images.tolist()


@pytest.mark.parametrize("shape", [(40, 30, 3), (23, 61, 3), (9, 12, 1), (16, 12, 3)])
def test_fitting_equals_keras_resizing(shape):
    """Both filter with a triangle; rounding to uint8 and where the cut falls, which
    Keras rounds to whole pixels, leave a few grey levels on smooth images."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    smooth = 127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 7)
    image = np.repeat(smooth[..., None], shape[2], -1).round().astype(np.uint8)
    layer = keras.layers.Resizing(16, 12, crop_to_aspect_ratio=True, antialias=True)
    wanted = keras.ops.convert_to_numpy(layer(image[None].astype("float32")))[0]
    found = image_folders.fitted(image, (16, 12))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, wanted, atol=6)
    assert np.abs(found - wanted).mean() < 1.5


def bytes_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_colour():
    """A 16-bit RGB image, which Pillow reads and can't write: by the PNG standard."""

    def chunk(kind, content):
        checked = kind + content
        size, check = len(content), zlib.crc32(checked)
        return struct.pack(">I", size) + checked + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    lines = (b"\0" + bytes(range(12))) * 2
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, content)
        for kind, content in (
            (b"IHDR", header),
            (b"IDAT", zlib.compress(lines)),
            (b"IEND", b""),
        )
    )


RGB = Image.fromarray(noise(9, 7, 3))
ALPHA = Image.fromarray(noise(9, 7, 4))
BAD = {
    "truncated.png": (bytes_of(RGB, "PNG")[:60], "can't be decoded"),
    "empty.png": (b"", "is empty"),
    "text.png": (b"These are words.", "can't be decoded"),
    "moving.webp": (
        bytes_of(RGB, "WEBP", save_all=True, append_images=[ALPHA.convert("RGB")]),
        "several frames",
    ),
    "inks.jpg": (bytes_of(RGB.convert("CMYK"), "JPEG"), "CMYK"),
    "deep.png": (
        bytes_of(Image.fromarray(noise(9, 7).astype("uint16")), "PNG"),
        "more than 8 bits",
    ),
    "deep_colour.png": (deep_colour(), "more than 8 bits"),
    "glass.png": (bytes_of(ALPHA, "PNG"), "transparent"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_named(pets, name):
    content, reason = BAD[name]
    (pets / "train" / "cat" / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name} .*{reason}.*data check"):
        data.load(str(pets))


def test_check_lists_all_bad_images_at_once(pets, capsys):
    assert main(["data", "check", str(pets)]) == 0
    assert "24 images can be used" in capsys.readouterr().out
    for name, (content, _) in BAD.items():
        (pets / "train" / "cat" / name).write_bytes(content)
    (pets / "train" / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
    assert main(["data", "check", str(pets)]) == 2
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == len(BAD) + 1
    assert any("gone.png" in line and "No such file" in line for line in lines)
    for name, (_, reason) in BAD.items():
        assert any(name in line and reason in line for line in lines)
    assert "9 of 33 images" in captured.err


def test_check_says_that_sizes_differ(pets, capsys):
    main(["data", "check", str(pets)])
    assert "sizes" not in capsys.readouterr().out
    Image.fromarray(noise(8, 7, 3)).save(pets / "train" / "dog" / "smaller.png")
    assert main(["data", "check", str(pets)]) == 0
    assert "2 sizes" in capsys.readouterr().out


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    path = tmp_path / "bomb.png"
    path.write_bytes(bytes_of(RGB, "PNG"))  # 63 pixels: Pillow would only warn
    with pytest.raises(UsageError, match="too large"):
        image_folders.decode(path)


def test_what_a_viewer_shows_is_what_is_decoded(tmp_path):
    def decoded(image, **options):
        path = tmp_path / "image.png"
        image.save(path, "PNG", **options)
        return image_folders.decode(path)

    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright: turn it clockwise to show it
    pixels = noise(9, 7, 3)
    shown = decoded(Image.fromarray(pixels), exif=turned)
    np.testing.assert_array_equal(shown, np.rot90(pixels, -1))
    grey = noise(9, 7)
    np.testing.assert_array_equal(
        decoded(Image.fromarray(grey)), np.repeat(grey[..., None], 3, -1)
    )
    opaque = np.dstack([pixels, np.full((9, 7), 255, np.uint8)])
    np.testing.assert_array_equal(decoded(Image.fromarray(opaque)), pixels)
    few = Image.fromarray(pixels // 128 * 255).quantize(8)
    np.testing.assert_array_equal(decoded(few), np.asarray(few.convert("RGB")))


def test_folders_laid_out_otherwise_are_refused(pets, tmp_path):
    with pytest.raises(UsageError, match="expected train/CLASS/ and test/CLASS/"):
        data.load(str(tmp_path))
    extra = pets / "test" / "fish"
    extra.mkdir()
    with pytest.raises(UsageError, match=r"different classes \(fish\)"):
        data.load(str(pets))
    (pets / "train" / "fish").mkdir()
    with pytest.raises(UsageError, match="fish holds no image"):
        data.load(str(pets))
    only = tmp_path / "one"
    (only / "train" / "cat").mkdir(parents=True)
    (only / "val" / "cat").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds cat: a network learns to tell two"):
        data.load(str(only))


def test_one_image_a_class_is_enough(tmp_path):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        folder = tmp_path / "few" / place
        folder.mkdir(parents=True)
        Image.fromarray(noise(5, 5, 3)).save(folder / "x.png")
    assert len(data.load(str(tmp_path / "few")).train) == 2


def test_unequal_sizes_ask_for_one(pets):
    Image.fromarray(noise(8, 7, 3)).save(pets / "train" / "dog" / "smaller.png")
    with pytest.raises(UsageError, match="pixels high and 7 wide, and others are"):
        data.load(str(pets))
    assert data.load(str(pets), image_size=(4, 4)).shape == (4, 4, 3)
