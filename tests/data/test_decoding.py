"""Kinds of image: each becomes 8-bit RGB by the one rule, or is refused by name."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from kerascnn import UsageError, data
from kerascnn.cli.commands import main
from kerascnn.data import decoding


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


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


def deep_avif():
    """An AVIF file whose header says high bit depth, which Pillow can't write.

    The third byte of the box av1C holds the flag, the box pixi the depths: AV1 Codec
    ISO Media File Format Binding, section 2.3.3, and ISO/IEC 23008-12, section 6.5.6.
    """
    content = bytearray(bytes_of(Image.fromarray(PIXELS), "AVIF"))
    content[content.index(b"av1C") + 6] |= 0x40
    depths = content.index(b"pixi") + 9
    content[depths : depths + 3] = bytes([10] * 3)
    return bytes(content)


PIXELS, SHARE = noise(9, 7, 3), noise(9, 7, 1, seed=1)
GREY = noise(9, 7, seed=2)
WORDS = np.random.default_rng(3).integers(0, 65536, (9, 7)).astype("uint16")
GLASS = Image.fromarray(np.dstack([PIXELS, SHARE]))


def over_white(pixels, share):
    share = share / 255
    return pixels * share + 255 * (1 - share)


def inks():
    """CMYK pixels and what they are in RGB: (1 - C) (1 - K), as Pillow documents."""
    inks = noise(9, 7, 4, seed=4)
    left = 255.0 - inks
    return Image.fromarray(inks, "CMYK"), left[..., :3] * left[..., 3:] / 255


def palette(transparent):
    few = Image.fromarray(PIXELS).quantize(8)
    places = np.asarray(few)
    colours = np.array(few.getpalette(), "float64").reshape(-1, 3)[places]
    if not transparent:
        return bytes_of(few, "PNG"), colours
    colours[places == 3] = 255
    return bytes_of(few, "PNG", transparency=3), colours


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn it clockwise to show it
    return bytes_of(Image.fromarray(PIXELS), "PNG", exif=exif), np.rot90(PIXELS, -1)


CASES = {
    "alpha.png": (bytes_of(GLASS, "PNG"), over_white(PIXELS, SHARE)),
    "alpha.webp": (
        bytes_of(GLASS, "WEBP", lossless=True, exact=True),
        over_white(PIXELS, SHARE),
    ),
    "grey_alpha.png": (
        bytes_of(Image.fromarray(np.dstack([GREY, SHARE])), "PNG"),
        np.repeat(over_white(GREY[..., None], SHARE), 3, -1),
    ),
    "inks.tif": (bytes_of(inks()[0], "TIFF"), inks()[1]),
    "palette.png": palette(transparent=False),
    "hole.png": palette(transparent=True),
    "turned.png": turned(),
    "words.png": (bytes_of(Image.fromarray(WORDS), "PNG"), WORDS[..., None] // 256),
    "words.tif": (bytes_of(Image.fromarray(WORDS), "TIFF"), WORDS[..., None] // 256),
    "words.pgm": (bytes_of(Image.fromarray(WORDS), "PPM"), WORDS[..., None] // 256),
    "colour.png": (
        deep_colour(),
        np.tile(np.arange(0, 12, 2).reshape(1, 2, 3), (2, 1, 1)),
    ),
    "colour.ppm": (
        b"P6 2 1 65535\n" + bytes([0, 0, 255, 255, 128, 0] * 2),
        np.tile([[[0, 255, 128]]], (1, 2, 1)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_becomes_8_bit_rgb_by_the_rule(tmp_path, name):
    content, expected = CASES[name]
    (tmp_path / name).write_bytes(content)
    found = decoding.decode(tmp_path / name)
    expected = np.broadcast_to(expected, found.shape)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1  # Pillow rounds in whole numbers


def test_inks_in_a_jpeg_are_read_as_in_a_tiff(tmp_path):
    smooth = Image.fromarray(np.full((16, 16, 4), (10, 60, 120, 30), "uint8"), "CMYK")
    found = []
    for kind in ("JPEG", "TIFF"):
        path = tmp_path / f"inks.{kind.lower()}"
        path.write_bytes(bytes_of(smooth, kind))
        found.append(decoding.decode(path).astype(int))
    assert np.abs(found[0] - found[1]).max() <= 3


@pytest.mark.skipif(not features.check("avif"), reason="Pillow reads AVIF since 11.3")
def test_an_avif_of_more_bits_is_read(tmp_path):
    path = tmp_path / "deep.avif"
    path.write_bytes(deep_avif())
    assert decoding.decode(path).shape == (9, 7, 3)


def test_avif_where_pillow_has_none_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    path.write_bytes(b"\0\0\0\x20ftypavif" + bytes(50))
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UsageError, match=r"a\.avif is an AVIF image, .* Pillow 11\.3"):
        decoding.decode(path)


def test_a_phones_jpeg_with_a_second_picture_is_its_first(tmp_path):
    first, second = (Image.fromarray(noise(16, 16, 3, seed=s)) for s in (1, 2))
    path = tmp_path / "phone.jpg"
    first.save(path, "MPO", save_all=True, append_images=[second], quality=95)
    plain = tmp_path / "plain.jpg"
    first.save(plain, "JPEG", quality=95)
    np.testing.assert_array_equal(decoding.decode(path), decoding.decode(plain))


def pets(folder, extra=()):
    for role in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / role / name).mkdir(parents=True)
            Image.fromarray(PIXELS).save(folder / role / name / "0.png")
    for place, content in extra:
        (folder / place).write_bytes(content)
    return folder


def test_heic_is_read_and_without_its_package_named(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    smooth = np.full((32, 32, 3), (200, 100, 50), "uint8")
    heif.from_pillow(Image.fromarray(smooth)).save(tmp_path / "a.heic")
    assert np.abs(decoding.decode(tmp_path / "a.heic") - smooth.astype(int)).max() < 9
    renamed = tmp_path / "photo.jpg"  # as some programs send them
    (tmp_path / "a.heic").rename(renamed)
    assert decoding.decode(renamed).shape == (32, 32, 3)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    folder = pets(tmp_path / "pets", [("train/cat/a.HEIC", renamed.read_bytes())])
    with pytest.raises(
        UsageError, match=r"a\.HEIC is a HEIC .*pip install pillow-heif"
    ):
        data.load(str(folder))
    with pytest.raises(
        UsageError, match=r"photo\.jpg is a HEIC .*pip install pillow-heif"
    ):
        decoding.decode(renamed)


BAD = [("train/cat/bad.png", b"x"), ("train/cat/a.svg", b"x"), ("test/loose.png", b"")]


def test_skip_bad_leaves_out_what_cant_be_used_and_counts_it(tmp_path, capsys):
    folder = str(pets(tmp_path / "pets", BAD))
    with pytest.raises(UsageError, match=r"a\.svg"):
        data.load(folder)
    for _ in range(2):  # the second time from the cache
        loaded = data.load(folder, skip_bad=True)
        assert (len(loaded.train), len(loaded.test), loaded.skipped) == (2, 2, 3)
        assert "left out, because they can't be used: 3 files, which" in loaded.notice
    np.testing.assert_array_equal(loaded.train.images, np.stack([PIXELS] * 2))
    (tmp_path / "pets" / "train" / "cat" / "0.png").write_bytes(b"x")
    with pytest.raises(UsageError, match="no train image of cat is left: "):
        data.load(folder, skip_bad=True)
    with pytest.raises(
        UsageError, match=r"left out \(skip_bad\) of images of your own"
    ):
        data.load("cifar10", "sample", skip_bad=True)


def test_skip_bad_of_a_table_leaves_out_rows_without_a_file(tmp_path):
    for i in range(8):
        Image.fromarray(noise(9, 7, 3, seed=i)).save(tmp_path / f"{i}.png")
    lines = [f"{i}.png,{i % 2}" for i in range(10)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    with pytest.raises(UsageError, match=r"names 8\.png, which is no file"):
        data.load(str(tmp_path / "list.csv"))
    loaded = data.load(str(tmp_path / "list.csv"), skip_bad=True)
    assert (len(loaded.train) + len(loaded.test), loaded.skipped) == (8, 2)


MORE = [(f"train/dog/{name}", content) for name, (content, _) in CASES.items()]


def test_check_gives_totals_by_kind_and_says_the_rule(tmp_path, capsys):
    assert main(["data", "check", str(pets(tmp_path / "pets", MORE))]) == 0
    shown = capsys.readouterr().out
    for total in (" 5 PNG,", "1 PNG turned by EXIF", "1 TIFF with CMYK"):
        assert total in shown
    for total in ("3 PNG with transparency", "2 PNG with 16 bits", "1 WEBP with tra"):
        assert total in shown
    assert f"{decoding.RULE}." in shown
    assert str(tmp_path) not in shown


def test_fix_writes_a_copy_that_decodes_to_the_same_pixels(tmp_path, capsys):
    folder = pets(tmp_path / "pets", [*BAD, *MORE])
    assert main(["data", "check", str(folder), "--fix", str(tmp_path / "new")]) == 0
    assert "left out." in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "new")]) == 0
    shown = capsys.readouterr().out
    assert f"{len(MORE) + 4} images can be used" in shown
    assert " with " not in shown.splitlines()[0]
    old = data.load(str(folder), skip_bad=True, image_size=(8, 8))
    new = data.load(str(tmp_path / "new"), image_size=(8, 8))
    for split in ("train", "test"):
        found = [
            {(i.tobytes(), n) for i, n in zip(s.images, s.labels, strict=True)}
            for s in (getattr(old, split), getattr(new, split))
        ]
        assert found[0] == found[1]


def test_fix_of_a_table_names_files_so_that_a_folder_s_reader_takes_them(tmp_path):
    names = ["a.png", ".b.png", "..c.png", "d.txt", "e", ".f", "g.jpg.bak", "h.JPG"]
    lines = ["path,label"]
    for i, name in enumerate(names):
        Image.fromarray(noise(9, 7, 3, seed=i)).save(tmp_path / name, "PNG")
        lines.append(f"{name},{i % 2}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    words = [
        "data",
        "check",
        str(tmp_path / "list.csv"),
        "--fix",
        str(tmp_path / "new"),
    ]
    assert main(words) == 0
    assert main(["data", "check", str(tmp_path / "new")]) == 0
    found = [data.load(str(tmp_path / name)) for name in ("list.csv", "new")]
    for split in ("train", "test"):
        old, new = ({i.tobytes() for i in getattr(s, split).images} for s in found)
        assert old == new


@pytest.mark.parametrize(
    "name", ["n\nl.png", "tab\t\r.png", "\x1b[31m.png", "\udcff.png", "\u2028.png"]
)
def test_a_mistake_is_one_line_whatever_a_file_is_called(tmp_path, name):
    """Also for who reads `str(error)`, without the command line."""
    folder = pets(tmp_path / "pets")
    (folder / "train" / "cat" / name).write_bytes(b"no image")
    with pytest.raises(UsageError) as refused:
        data.load(str(folder))
    assert len(str(refused.value).splitlines()) == 1
    assert str(refused.value).isprintable()
    assert "can't be decoded" in str(refused.value)


def test_what_pillow_logs_of_a_damaged_file_is_not_shown(tmp_path):
    """Its line on a TIFF of more samples than it knows, in a process of its own."""
    path = tmp_path / "many.tif"
    Image.fromarray(noise(9, 7, 3)).save(path)
    content = bytearray(path.read_bytes())
    at = content.index((277).to_bytes(2, "little"))  # SamplesPerPixel
    content[at + 8 : at + 10] = (57347).to_bytes(2, "little")
    path.write_bytes(content)
    code = (
        "import sys; from pathlib import Path; from kerascnn.data import decoding;"
        "from kerascnn import UsageError\n"
        "try: decoding.decode(Path(sys.argv[1]))\n"
        "except UsageError: print('refused')"
    )
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")


@pytest.mark.parametrize("target", ["pets", "pets/inside", "full"])
def test_fix_writes_over_nothing(tmp_path, target, capsys):
    folder = pets(tmp_path / "pets")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main(["data", "check", str(folder), "--fix", str(tmp_path / target)]) == 2
    assert "name a" in capsys.readouterr().err
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
