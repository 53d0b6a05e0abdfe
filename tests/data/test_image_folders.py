"""Folders of image files: layout, decoding, resizing, and what is refused."""

import io
import os
import struct

import keras
import numpy as np
import pytest
from PIL import Image, features

from kerascnn import UsageError, data
from kerascnn.cli.commands import main
from kerascnn.data import decoding


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


PLACES = ["a.png", "in/a.png", "in/side/deep/a.png", "x.png/a.png", "in/linked.png"]
KINDS = {"PNG": "PNG png apng", "JPEG": "JPG Jpeg jpe jfif jif", "GIF": "gif GIF"}
KINDS |= {"BMP": "bmp dib", "TIFF": "tif TIFF", "WEBP": "webp"}
KINDS |= {"PPM": "ppm pnm", "PCX": "pcx", "TGA": "tga"}
if features.check("avif"):  # Pillow's wheels have it since 11.3
    KINDS["AVIF"] = "avif"


def test_every_image_below_a_class_is_used(pets, tmp_path):
    """In folders inside, behind links, and under each ending that Pillow decodes."""
    image = Image.fromarray(noise(9, 7, 3, seed=7777))
    cat, before = pets / "train" / "cat", len(data.load(str(pets)).train)
    more = [cat / place for place in PLACES]
    for kind, endings in KINDS.items():
        more += [cat / "kinds" / f"{kind}.{ending}" for ending in endings.split()]
    for path in more:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = path.stem if path.parent.name == "kinds" else "PNG"
        path.write_bytes(bytes_of(image, kind))
    more[4].rename(tmp_path / "elsewhere.png")
    more[4].symlink_to(tmp_path / "elsewhere.png")
    (cat / "kinds").rename(tmp_path / "kinds")
    (cat / "kinds").symlink_to(tmp_path / "kinds")
    (cat / "in" / "back").symlink_to(cat)  # its images come once
    (cat / "in" / "up").symlink_to(pets)
    loaded = data.load(str(pets))
    assert len(loaded.train) == before + len(more)
    cats = loaded.train.images[loaded.train.labels == 0].astype(int)
    same = np.abs(cats - noise(9, 7, 3, seed=7777)).max((1, 2, 3)) == 0
    lossless = [p for p in more if p.stem not in ("JPEG", "WEBP", "AVIF")]
    assert same.sum() == len(lossless)
    # A nested file that changes is decoded again.
    (cat / "in" / "a.png").write_bytes(bytes_of(RGB, "PNG"))
    assert data.load(str(pets)).hash != loaded.hash


@pytest.mark.parametrize(
    ("place", "kind", "reason"),
    [
        ("cat/.a.png", "PNG", "hidden"),
        ("cat/.trash/a.png", "PNG", "hidden"),
        (".more/a.jpg", "JPEG", "hidden"),
        ("cat/photo", "JPEG", "by its content"),
        ("cat/in/photo.jpg_large", "JPEG", "by its content"),
        ("cat/a.txt", "WEBP", "by its content"),
        ("cat/a.jxl", "PNG", "save it as PNG or JPEG"),
        ("cat/a.NEF", "TIFF", "save it as PNG or JPEG"),
        ("cat/a.svg", "PNG", "save it as PNG or JPEG"),
        ("a.png", "PNG", "is in no class"),
        ("a.jpeg_large", "JPEG", "by its content"),
    ],
)
@pytest.mark.parametrize("role", ["train", "test"])
def test_an_image_that_would_not_count_is_refused(
    pets, capsys, role, place, kind, reason
):
    path = pets / role / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes_of(RGB, kind))
    with pytest.raises(UsageError) as refused:
        data.load(str(pets))
    assert str(refused.value).startswith(str(path))
    assert reason in str(refused.value)
    assert main(["data", "check", str(pets)]) == 2
    said = str(refused.value).replace(f"{pets}/", "")
    assert said in capsys.readouterr().out


def test_a_link_to_nothing_in_place_of_a_class_is_refused(pets):
    for role in ("train", "test"):
        (pets / role / "fish").symlink_to(pets / "gone")
    with pytest.raises(UsageError, match="fish is a link to what is not there"):
        data.load(str(pets))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes have names here")
def test_a_pipe_among_the_images_is_refused(pets):
    os.mkfifo(pets / "train" / "cat" / "a.png")
    with pytest.raises(UsageError, match=r"a\.png is no plain file"):
        data.load(str(pets))


def test_images_beside_train_and_test_are_said_to_be_unused(pets, capsys):
    assert data.load(str(pets)).notice is None
    (pets / "val" / "cat").mkdir(parents=True)
    (pets / "notes").mkdir()
    (pets / "notes" / "x.txt").write_text("no image")
    Image.fromarray(noise(9, 7, 3)).save(pets / "val" / "cat" / "a.png")
    notice = data.load(str(pets)).notice
    assert "20 training and 4 test images" in notice
    assert notice.endswith("; not used: 1 image in val.")
    assert main(["data", "check", str(pets)]) == 0
    assert "Not used: 1 image in val." in capsys.readouterr().out


def test_images_beside_the_roles_are_counted_wherever_they_lie(pets, tmp_path, capsys):
    places = ["a.png", "b.HEIC", "val/c.png", "val/cat/deep/er/c.jpg", "raw.png/d.gif"]
    places += [".trash/e.bmp", "notes.txt", "val/labels.csv", "train2/cat/f.webp"]
    for place in places:
        (pets / place).parent.mkdir(parents=True, exist_ok=True)
        (pets / place).write_bytes(b"x")
    (pets / "val" / "back").symlink_to(pets / "val")
    for name, target in (("all", pets), ("again", pets / "train"), ("up", tmp_path)):
        (pets / name).symlink_to(target)
    said = (
        "1 image in .trash, 2 images in pets itself, 1 image in raw.png, "
        "1 image in train2, 2 images in val"
    )
    assert data.load(str(pets)).notice.endswith(f"; not used: {said}.")
    assert main(["data", "check", str(pets)]) == 0
    assert f"Not used: {said}." in capsys.readouterr().out


def test_a_changed_file_is_decoded_again(pets):
    before = data.load(str(pets))
    Image.fromarray(noise(9, 7, 3, seed=7777)).save(pets / "train" / "cat" / "0.png")
    after = data.load(str(pets))
    assert before.hash != after.hash
    assert noise(9, 7, 3, seed=7777).tolist() in after.train.images.tolist()


@pytest.mark.parametrize("way", ["in place", "another file"])
def test_a_changed_file_of_the_same_size_and_time_is_decoded_again(tmp_path, way):
    for place in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / "set" / place).mkdir(parents=True)
        file = tmp_path / "set" / place / "x.bmp"  # whose size does not tell
        Image.fromarray(noise(9, 7, 3)).save(file)
    before = data.load(str(tmp_path / "set"))
    status = file.stat()
    other = tmp_path / "other.bmp"
    Image.fromarray(noise(9, 7, 3, seed=7777)).save(other)
    if way == "in place":
        file.write_bytes(other.read_bytes())
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    if way == "another file":
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (
        status.st_size,
        status.st_mtime_ns,
    )
    after = data.load(str(tmp_path / "set"))
    assert before.hash != after.hash
    assert after.test.images[after.test.labels == 1].tolist() == [
        noise(9, 7, 3, seed=7777).tolist()
    ]


@pytest.mark.parametrize("shape", [(40, 30, 3), (23, 61, 3), (9, 12, 1), (16, 12, 3)])
def test_fitting_equals_keras_resizing(shape):
    """Both filter with a triangle; rounding to uint8 and where the cut falls, which
    Keras rounds to whole pixels, leave a few grey levels on smooth images."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    smooth = 127 + 60 * np.sin(rows / 9) + 60 * np.cos(columns / 7)
    image = np.repeat(smooth[..., None], shape[2], -1).round().astype(np.uint8)
    layer = keras.layers.Resizing(16, 12, crop_to_aspect_ratio=True, antialias=True)
    wanted = keras.ops.convert_to_numpy(layer(image[None].astype("float32")))[0]
    found = decoding.fitted(image, (16, 12))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, wanted, atol=6)
    assert np.abs(found - wanted).mean() < 1.5


def bytes_of(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_planes():
    """A 16-bit RGB TIFF with a plane for each colour, which Pillow can't write."""
    pixels = bytes(range(24))
    tags = {256: 2, 257: 2, 258: 16, 259: 1, 262: 2, 277: 3, 278: 2, 284: 2}
    start = 8 + 2 + 12 * (len(tags) + 2) + 4
    lists = {258: (3, [16] * 3), 273: (4, []), 279: (4, [8] * 3)}
    lists[273] = (4, [start + 6 + 24 + 8 * i for i in range(3)])
    entries, more = [], b""
    for tag in sorted({*tags, *lists}):
        if tag not in lists:
            entries.append(struct.pack("<HHIHH", tag, 3, 1, tags[tag], 0))
            continue
        kind, values = lists[tag]
        entries.append(struct.pack("<HHII", tag, kind, 3, start + len(more)))
        more += struct.pack("<3H" if kind == 3 else "<3I", *values)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(entries) + bytes(4) + more + pixels


RGB = Image.fromarray(noise(9, 7, 3))
DEEP = Image.fromarray(noise(9, 7).astype("uint16"))
FLOATS = Image.fromarray(noise(9, 7).astype("float32"))
ALPHA = Image.fromarray(noise(9, 7, 4))


BAD = {
    "truncated.png": (bytes_of(RGB, "PNG")[:60], "can't be decoded"),
    "empty.png": (b"", "is empty"),
    "text.png": (b"These are words.", "can't be decoded"),
    "moving.webp": (
        bytes_of(RGB, "WEBP", save_all=True, append_images=[ALPHA.convert("RGB")]),
        "several frames",
    ),
    "deep_planes.tif": (deep_planes(), "more than 8 bits a channel in separate"),
    "floats.tif": (bytes_of(FLOATS, "TIFF"), "32 bits"),
    "whole.tif": (bytes_of(FLOATS.convert("I"), "TIFF"), "32 bits"),
    "lab.tif": (bytes_of(Image.new("LAB", (9, 7)), "TIFF"), "LAB colours"),
    "moving.gif": (
        bytes_of(RGB, "GIF", save_all=True, append_images=[ALPHA.convert("RGB")]),
        "several frames",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_named(pets, name):
    content, reason = BAD[name]
    (pets / "train" / "cat" / name).write_bytes(content)
    with pytest.raises(UsageError, match=rf"{name} .*{reason}.*data check"):
        data.load(str(pets))


@pytest.mark.parametrize("size", [(16, 16), (116, 16), (213, 160), (16, 1616)])
@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *(("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp"), ("PPM", "ppm")),
        *(("PPM", "pgm"), ("TIFF", "tif"), ("WEBP", "webp")),
    ],
)
def test_any_width_and_height_is_good(tmp_path, kind, ending, size):
    """Widths, heights and strides with a 16 in them are no depth of colour."""
    image = Image.fromarray(noise(*size, *([3] * (ending != "pgm"))))
    path = tmp_path / f"image.{ending}"
    path.write_bytes(bytes_of(image, kind, comment=b"x" * 16))
    assert decoding.decode(path).shape == (*size, 3)


def test_any_offset_of_the_pixels_is_good(tmp_path):
    path = tmp_path / "image.ppm"
    for length in (16, 116, 160, 216):
        header = b"P6\n#" + b"." * (length - 13) + b"\n2 1 255\n"
        assert len(header) == length
        path.write_bytes(header + bytes(range(6)))
        assert decoding.decode(path).tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_few_bits_a_channel_are_good(tmp_path):
    path = tmp_path / "image.ppm"
    path.write_bytes(b"P6 1 1 15\n\x0f\x00\x05")
    assert decoding.decode(path).tolist() == [[[255, 0, 85]]]
    path.write_bytes(b"P1 2 1\n1 0")
    assert decoding.decode(path).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    bitmap = bytearray(bytes_of(Image.fromarray(noise(1, 2, 3)), "BMP"))
    # 16 bits for all three channels: five for red and blue each, six for green.
    bitmap[14:18], bitmap[28:34] = struct.pack("<I", 56), struct.pack("<HI", 16, 3)
    bitmap[10:14] = struct.pack("<I", 70)
    masks = struct.pack("<4I", 0xF800, 0x7E0, 0x1F, 0)
    path = tmp_path / "image.bmp"
    path.write_bytes(bitmap[:54] + masks + struct.pack("<HH", 0xF800, 0x1F))
    assert decoding.decode(path).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_check_lists_all_bad_images_at_once(pets, capsys):
    assert main(["data", "check", str(pets)]) == 0
    assert "24 images can be used" in capsys.readouterr().out
    for name, (content, _) in BAD.items():
        (pets / "train" / "cat" / name).write_bytes(content)
    (pets / "train" / "cat" / "gone.png").symlink_to(pets / "nowhere.png")
    assert main(["data", "check", str(pets)]) == 2
    captured = capsys.readouterr()
    *lines, usable, _ = captured.out.splitlines()
    assert len(lines) == len(BAD) + 1
    assert usable == "24 images can be used: 24 PNG."
    assert any("gone.png" in line and "No such file" in line for line in lines)
    for name, (_, reason) in BAD.items():
        assert any(name in line and reason in line for line in lines)
    assert f"{len(BAD) + 1} of {len(BAD) + 25} images" in captured.err


def test_check_lists_all_faults_of_the_layout_at_once(pets, capsys):
    for place in ("train/ape", "train/bee", "test/bee", "test/fish"):
        (pets / place).mkdir()
    Image.fromarray(noise(9, 7, 3)).save(pets / "test" / "fish" / "0.png")
    (pets / "test" / "fish" / "bad.png").write_bytes(b"")
    Image.fromarray(noise(9, 7, 3)).save(pets / "train" / "stray.png")
    for name in ("new.jxl", "x\x1b.y\x1b", "README", ".hidden"):
        (pets / "train" / "cat" / name).write_bytes(b"x")
    (pets / "test" / "notes.txt").write_text("about these")
    (pets / "train" / "dog" / "puppies").mkdir()
    assert main(["data", "check", str(pets)]) == 2
    captured = capsys.readouterr()
    *lines, others, usable, classes = captured.out.splitlines()
    assert usable == "25 images can be used: 25 PNG."
    assert classes == "Classes: ape 0, bee 0, cat 12, dog 12, fish 1."
    expected = [
        f"{pets}: train and test have different classes (ape, fish).",
        "train/ape holds no image",
        "train/bee holds no image",
        "test/bee holds no image",
        "train/stray.png is in no class",
        "train/cat/new.jxl is of a kind that can't be read here",
        "test/fish/bad.png is empty",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)
    assert others == "Passed over: 1 .txt, 1 .y\\x1b, 1 without ending."
    assert captured.err == (
        "kerascnn: the layout has 6 faults and 1 of 26 images can't be used.\n"
    )


def test_check_of_one_class(tmp_path, capsys):
    for role in ("train", "val"):
        (tmp_path / role / "cat").mkdir(parents=True)
    assert main(["data", "check", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    first, *lines = captured.out.splitlines()
    assert "holds cat: a network learns to tell two" in first
    assert [line.split()[0] for line in lines] == [
        f"{role}/cat" for role in ("train", "val")
    ]
    assert captured.err == "kerascnn: the layout has 3 faults.\n"


def test_what_is_passed_over_is_no_mistake(pets, capsys):
    (pets / "train" / "cat" / "notes.txt").write_text("no image")
    (pets / "train" / "cat" / ".DS_Store").write_text("no image")
    assert main(["data", "check", str(pets)]) == 0
    assert capsys.readouterr().out == (
        "Passed over: 1 .txt.\n24 images can be used: 24 PNG.\n"
        "Classes: cat 12, dog 12.\n"
    )


def test_check_says_that_sizes_differ(pets, capsys):
    main(["data", "check", str(pets)])
    assert "sizes" not in capsys.readouterr().out
    Image.fromarray(noise(8, 7, 3)).save(pets / "train" / "dog" / "smaller.png")
    assert main(["data", "check", str(pets)]) == 0
    shown = capsys.readouterr().out
    assert "2 sizes" in shown
    assert "from 8 by 7 (train/dog/smaller.png) to " in shown


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    path = tmp_path / "bomb.png"
    path.write_bytes(bytes_of(RGB, "PNG"))  # 63 pixels: Pillow would only warn
    with pytest.raises(UsageError, match="too large"):
        decoding.decode(path)


def test_what_a_viewer_shows_is_what_is_decoded(tmp_path):
    def decoded(image, **options):
        path = tmp_path / "image.png"
        image.save(path, "PNG", **options)
        return decoding.decode(path)

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
    with pytest.raises(UsageError, match=r"expected train/CLASS/ .* and found pets\."):
        data.load(str(tmp_path))
    for name in ("Trained", "Tested", *"abcde"):
        (tmp_path / "others" / name).mkdir(parents=True)
    with pytest.raises(UsageError, match="found Tested, Trained, a, b, c and 2 more"):
        data.load(str(tmp_path / "others"))
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


def test_where_all_images_are_grey_they_have_one_channel(tmp_path):
    folder = tmp_path / "digits"
    for place in ("train/0", "train/1", "test/0", "test/1"):
        (folder / place).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(noise(6, 5, seed=i)).save(folder / place / f"{i}.png")
    loaded = data.load(str(folder))
    assert loaded.shape == (6, 5, 1)
    found = {image.tobytes() for image in loaded.train.images}
    assert found == {noise(6, 5, seed=i).tobytes() for i in range(3)}
    # One image in colour, and all have three.
    Image.fromarray(noise(6, 5, 3)).save(folder / "test" / "1" / "0.png")
    assert data.load(str(folder)).shape == (6, 5, 3)


def test_a_run_says_which_files_are_passed_over(pets):
    (pets / "train" / "cat" / "more.zip").write_bytes(b"PK\5\6" + bytes(18))
    (pets / "train" / "notes.md").write_text("of cats")
    assert "passed over: 1 .md, 1 .zip." in data.load(str(pets)).notice
