"""The layouts of one's own images: what is read, split, and refused in each."""

import csv
import shutil

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from kerascnn import UsageError, data
from kerascnn.cli.commands import main
from kerascnn.data import listing


def noise(seed, shape=(9, 7, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed)).save(path)
    return path


def content(loaded):
    """Return for each split the images, as bytes, with their classes' names."""
    return {
        role: {
            (image.tobytes(), loaded.classes[label])
            for image, label in zip(split.images, split.labels, strict=True)
        }
        for role, split in (("train", loaded.train), ("test", loaded.test))
    }


def images(seeds, name):
    return {(noise(seed).tobytes(), name) for seed in seeds}


TRAIN = {"cat": range(4), "dog": range(100, 103)}
TEST = {"cat": range(50, 52), "dog": range(150, 152)}
EXPECTED = {
    role: set().union(*(images(seeds, name) for name, seeds in classes.items()))
    for role, classes in (("train", TRAIN), ("test", TEST))
}


def rows(folder):
    """Write the images of TRAIN and TEST anyhow; return path, class, split of each."""
    found = []
    for role, classes in (("train", TRAIN), ("test", TEST)):
        for name, seeds in classes.items():
            for seed in seeds:
                save(folder / "all" / f"{seed}.png", seed)
                found.append((f"all/{seed}.png", name, role))
    return found


def in_folders(folder, train="train", test="test"):
    for role, classes in ((train, TRAIN), (test, TEST)):
        for name, seeds in classes.items():
            for seed in seeds:
                save(folder / role / name / f"{seed}.png", seed)
    return folder


def in_csv(folder, heads=("path", "label", "split"), delimiter=",", name="list.csv"):
    folder.mkdir()
    with (folder / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([heads, *rows(folder)])
    return folder / name


def in_parquet(folder):
    folder.mkdir()
    columns = zip(*rows(folder), strict=True)
    names = ("image", "class", "split")
    table = pyarrow.table(dict(zip(names, map(list, columns), strict=True)))
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    return folder / "list.parquet"


def in_metadata(folder):
    """Hugging Face's imagefolder: a table in the folder of each split."""
    for role, classes in (("train", TRAIN), ("test", TEST)):
        lines = ["file_name,label"]
        for name, seeds in classes.items():
            for seed in seeds:
                save(folder / role / f"{seed}.png", seed)
                lines.append(f"{seed}.png,{name}")
        (folder / role / "metadata.csv").write_text("\n".join(lines))
    return folder


def in_one_metadata(folder):
    folder = in_csv(folder, ("file_name", "label", "split"), name="metadata.csv").parent
    return folder


def in_npz(folder, keys=("x_train", "y_train", "x_test", "y_test"), names=True):
    folder.mkdir()
    arrays = []
    for classes in (TRAIN, TEST):
        arrays.append(np.stack([noise(s) for seeds in classes.values() for s in seeds]))
        labels = [n if names else ["cat", "dog"].index(n) for n in classes]
        counts = [len(seeds) for seeds in classes.values()]
        arrays.append(np.repeat(labels, counts))
    np.savez(folder / "set.npz", **dict(zip(keys, arrays, strict=True)))
    return folder / "set.npz"


LAYOUTS = {
    "train, test": in_folders,
    "train, validation": lambda folder: in_folders(folder, "train", "validation"),
    "train, valid": lambda folder: in_folders(folder, "train", "valid"),
    "Training, Val": lambda folder: in_folders(folder, "Training", "Val"),
    "csv": in_csv,
    "csv of semicolons": lambda f: in_csv(f, ("Filename", "Class", "subset"), ";"),
    "tsv": lambda f: in_csv(f, ("file", "category", "split"), "\t", "list.tsv"),
    "parquet": in_parquet,
    "metadata of each split": in_metadata,
    "metadata of all": in_one_metadata,
    "npz": in_npz,
    "npz of MedMNIST": lambda folder: in_npz(
        folder, ("train_images", "train_labels", "test_images", "test_labels")
    ),
    "npz of X, y": lambda f: in_npz(f, ("X_train", "Y_train", "X_val", "Y_val")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_holds_the_same_set(tmp_path, layout):
    loaded = data.load(str(LAYOUTS[layout](tmp_path / "pets")))
    assert loaded.classes == ("cat", "dog")
    assert content(loaded) == EXPECTED
    assert loaded.notice is None


def test_a_check_of_arrays_says_that_all_is_well(tmp_path, capsys):
    path = str(in_npz(tmp_path / "sets"))
    assert main(["data", "check", path]) == 0
    assert capsys.readouterr().out == f"{path} holds arrays, and nothing is wrong " + (
        "with them.\n"
    )
    (tmp_path / "sets" / "set.npz").write_bytes(b"no arrays")
    assert main(["data", "check", path]) == 2


def test_a_table_or_npz_needs_no_dot_before_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_csv(tmp_path / "one")
    in_npz(tmp_path / "two")
    for name in ("one/list.csv", "two/set.npz"):
        assert content(data.load(name)) == EXPECTED


@pytest.fixture
def many(tmp_path):
    """Three classes of 60, 60 and 2 images, with no split."""
    for label, (name, count) in enumerate((("ant", 60), ("bee", 60), ("wasp", 2))):
        for i in range(count):
            save(tmp_path / "insects" / name / f"{i}.png", 1000 * label + i)
    return tmp_path / "insects"


def test_without_a_split_the_content_chooses_a_fifth_of_each_class(many):
    loaded = data.load(str(many))
    assert loaded.classes == ("ant", "bee", "wasp")
    parts = content(loaded)
    assert not {image for image, _ in parts["train"]} & {i for i, _ in parts["test"]}
    assert len(parts["train"] | parts["test"]) == 122
    tested = np.bincount(loaded.test.labels)
    # Three standard deviations of a draw of 60 with probability a fifth.
    assert (abs(tested[:2] - 12) <= 3 * np.sqrt(60 * 0.2 * 0.8)).all()
    assert tested[2] == 1
    assert f"{len(loaded.train)} training and {len(loaded.test)} test" in loaded.notice
    assert "so about a fifth of each class is" in loaded.notice


def test_what_is_added_moves_no_image(many):
    before = content(data.load(str(many)))
    for i in range(60, 90):
        save(many / "ant" / f"{i}.png", i)
    (many / "bee" / "0.png").rename(many / "bee" / "another name.png")
    after = content(data.load(str(many)))
    for role in ("train", "test"):
        assert {each for each in before[role] if each[1] != "wasp"} <= after[role]
    assert len(after["train"]) > len(before["train"])
    assert len(after["test"]) > len(before["test"])


def test_the_same_image_twice_is_on_one_side(many):
    for name in ("ant", "bee"):
        for path in sorted((many / name).glob("*.png")):
            shutil.copy(path, path.with_stem(f"{path.stem} copy"))
    parts = content(data.load(str(many)))
    for name in ("ant", "bee"):
        shared = {e for e in parts["train"] if e[1] == name} & parts["test"]
        assert not shared


@pytest.mark.parametrize("kind", ["folder", "csv", "npz"])
def test_the_split_by_content_is_the_threshold_of_the_hash(many, kind):
    """Each layout without a split: by SHA-256 of an image's pixels."""
    path = many
    stored = [*sorted(many.glob("*/*.png"))]
    if kind == "csv":
        path = many / "list.csv"
        lines = [f"{p},{p.parent.name}" for p in stored]
        path.write_text("\n".join(["path,label", *lines]))
    if kind == "npz":
        path = many / "set.npz"
        pixels = np.stack([np.asarray(Image.open(p)) for p in stored])
        np.savez(path, x=pixels, y=[p.parent.name for p in stored])
    loaded = data.load(str(path))
    tested = {image for image, name in content(loaded)["test"] if name != "wasp"}
    import hashlib

    held = {
        np.asarray(Image.open(p)).tobytes() for p in stored if p.parent.name != "wasp"
    }
    chosen = {p for p in held if hashlib.sha256(p).hexdigest() < "333333"}
    assert tested == chosen  # 0x333333... is a fifth of 0xffffff...


def test_writing_the_same_pixels_otherwise_moves_no_image(many, tmp_path):
    """Also what `data check --fix` does: CMYK, EXIF and transparency become RGB."""
    rng = np.random.default_rng(0)
    for path in sorted(many.glob("*/*.png")):
        kind = rng.choice(["cmyk", "turned", "clear", "deep", "jpeg", "plain"])
        image = Image.open(path)
        if kind in ("cmyk", "turned"):
            exif = Image.Exif()
            exif[274] = 6 if kind == "turned" else 1
            image = image.convert("CMYK") if kind == "cmyk" else image
            image.save(path.with_suffix(".jpg"), exif=exif)
        elif kind == "clear":
            image.putalpha(100)
            image.save(path.with_suffix(".webp"), lossless=True)
        elif kind == "deep":
            grey = np.asarray(image.convert("L")).astype("uint16") * 257
            Image.fromarray(grey).save(path.with_suffix(".tif"))
        elif kind == "jpeg":
            image.save(path.with_suffix(".jpeg"))
        if kind != "plain":
            path.unlink()
    before = content(data.load(str(many), image_size=(9, 9)))
    assert main(["data", "check", str(many), "--fix", str(tmp_path / "mended")]) == 0
    for path in (tmp_path / "mended").glob("*/*.png"):
        Image.open(path).save(path, compress_level=int(rng.integers(10)), dpi=(9, 9))
    after = content(data.load(str(tmp_path / "mended"), image_size=(9, 9)))
    assert after == before


def test_divided_leaves_no_side_of_a_class_empty():
    generator = np.random.default_rng(0)
    for _ in range(200):
        labels = generator.integers(0, 3, 12).tolist()
        places = generator.random(12) * generator.choice([0.1, 1, 1])
        chosen = np.array(listing.divided(places.tolist(), labels))
        for label in set(labels):
            here = np.array(labels) == label
            if here.sum() > 1:
                assert 0 < chosen[here].sum() < here.sum()


def test_train_alone_is_split_by_content(many, tmp_path):
    (tmp_path / "set").mkdir()
    many.rename(tmp_path / "set" / "train")
    save(tmp_path / "set" / "extra" / "0.png", 7)
    loaded = data.load(str(tmp_path / "set"))
    assert loaded.classes == ("ant", "bee", "wasp")
    assert loaded.notice.endswith("not used: 1 image in extra.")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "plane"):
        for i in range(4):
            save(tmp_path / "vehicles" / name / f"{i}.png", i + 10 * len(name))
    assert data.load(str(tmp_path / "vehicles")).classes == ("plane", "train")


def test_validation_images_beside_test_images_are_said_to_be_unused(tmp_path):
    table = in_csv(tmp_path / "pets")
    save(tmp_path / "pets" / "all" / "x.png", 999)
    with table.open("a") as file:
        file.write("all/x.png,cat,val\n")
    loaded = data.load(str(table))
    assert content(loaded) == EXPECTED
    assert loaded.notice.endswith("not used: 1 image of val.")


def test_classes_that_are_numbers_are_in_their_order(tmp_path):
    for i in range(12):
        save(tmp_path / f"{i}.png", i)
    lines = [f"{i}.png,{i % 6 * 2},{'test' if i > 5 else 'train'}" for i in range(12)]
    (tmp_path / "list.csv").write_text("\n".join(["file,label,split", *lines]))
    loaded = data.load(str(tmp_path / "list.csv"))
    assert loaded.classes == ("0", "2", "4", "6", "8", "10")
    found = dict(content(loaded)["train"])
    assert found[noise(5).tobytes()] == "10"


CLASSES = {"class_names": ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]}


@pytest.mark.parametrize(
    ("convert", "of_labels"),
    [
        (lambda x: x, lambda y: y),
        (lambda x: x.astype("float32"), lambda y: y[:, None]),
        (lambda x: x / 255, lambda y: np.eye(10)[y]),
        (lambda x: x.astype("int64"), lambda y: y.astype("float32")),
        (lambda x: x.astype("uint16") * 257, lambda y: y.astype("S")),
        (lambda x: x[:, None], lambda y: y.astype(str)),
        (lambda x: x[..., None], lambda y: y),
    ],
)
def test_arrays_of_any_usual_type_are_the_same_images(tmp_path, convert, of_labels):
    """scikit-learn's digits, 8 x 8 pixels of 0 to 16."""
    digits = load_digits()
    pixels = (digits.images * 15).astype("uint8")
    arrays = {"images": convert(pixels), "labels": of_labels(digits.target)}
    np.savez(tmp_path / "digits.npz", **arrays, **CLASSES)
    loaded = data.load(str(tmp_path / "digits.npz"))
    assert loaded.classes == tuple("abcdefghij")
    found = content(loaded)
    expected = {
        (image.tobytes(), "abcdefghij"[label])
        for image, label in zip(pixels, digits.target, strict=True)
    }
    assert found["train"] | found["test"] == expected
    assert loaded.shape == (8, 8, 1)


GOOD = "path,label\na.png,x\nb.png,x\nc.png,y\nd.png,y\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no column of paths"),
        ("id,breed\n1,poodle\n", "no column of paths: expected .* found id, breed"),
        ("path,breed\na.png,x\n", "no column of labels"),
        ("path,label\n", "lists no image"),
        (GOOD.replace(",y", ",x"), "lists x: a network learns to tell two"),
        (f"{GOOD}e.png,x\n", "names e.png, which is no file"),
        (f"{GOOD}a.png,y\n", "names a.png twice, as x and as y"),
        (f"{GOOD}a.png\n", "row 6: no text in label"),
        (f"{GOOD},x\n", "row 6: no text in path"),
        (GOOD.replace("d.png,y\n", ""), "has 1 training image of y: 2 or more"),
        ("path,label,split\na.png,x,fold1\n", "split 'fold1' is none of train"),
        ("path,label,split\na.png,x,train\na.png,x,test\n", "in two splits"),
        (b"path,label\n\xff\xfe\x00", "can't be read as a table"),
        ('path,label\n"' + "x" * 200_000 + '",1\n', "can't be read as a table"),
    ],
)
def test_tables_that_are_no_set_are_refused(tmp_path, text, reason, capsys):
    for name in "abcd":
        save(tmp_path / f"{name}.png", ord(name))
    table = tmp_path / "list.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=reason):
        data.load(str(table))
    assert main(["data", "check", str(table)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


IMAGES, LABELS = np.zeros((6, 4, 4), "uint8"), np.arange(6) % 2


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "expected x_train and y_train, .* found nothing"),
        ({"a": IMAGES}, r"found a \(6, 4, 4\)"),
        ({"x": IMAGES, "y": LABELS[:5]}, "has 6 x and 5 y"),
        ({"x": IMAGES, "y": LABELS * 0}, "the class 0 alone"),
        ({"x": IMAGES[:, 0], "y": LABELS}, r"x has shape \(6, 4\)"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, r"x has shape \(0, 4, 4\)"),
        ({"x": IMAGES - 300.0, "y": LABELS}, "pixels from -300 to -300"),
        ({"x": IMAGES * np.nan, "y": LABELS}, "pixels from nan"),
        ({"x": IMAGES.astype(str), "y": LABELS}, "dtype <U3: expected numbers"),
        ({"x": IMAGES, "y": LABELS / 3}, "y has dtype float64"),
        ({"x": IMAGES, "y": np.zeros((6, 3))}, r"y has dtype float64 and shape"),
        ({"x": IMAGES.astype(object), "y": LABELS}, "can't be read as arrays"),
        ({"x": IMAGES[:3], "y": LABELS[:3]}, "one image of 1"),
        (
            {
                "x_train": IMAGES,
                "y_train": LABELS,
                "x_test": IMAGES,
                "y_test": LABELS + 1,
            },
            "test images of 2",
        ),
        (
            {
                **{"x_train": IMAGES, "y_train": LABELS},
                **{"x_test": IMAGES[:, :3], "y_test": LABELS},
            },
            r"test images of \(3, 4, 1\)",
        ),
    ],
)
def test_arrays_that_are_no_set_are_refused(tmp_path, arrays, reason):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(UsageError, match=reason):
        data.load(str(tmp_path / "set.npz"))


def test_a_damaged_npz_is_refused(tmp_path):
    whole = in_npz(tmp_path / "a").read_bytes()
    for broken in (b"", b"text", whole[:-30], whole[:500] + bytes(99) + whole[599:]):
        (tmp_path / "set.npz").write_bytes(broken)
        with pytest.raises(UsageError, match="can't be read as arrays"):
            data.load(str(tmp_path / "set.npz"))


def test_a_changed_table_or_image_of_it_is_read_again(tmp_path):
    table = in_csv(tmp_path / "pets")
    first = data.load(str(table)).hash
    save(tmp_path / "pets" / "all" / "0.png", 4444)
    second = data.load(str(table)).hash
    table.write_text(table.read_text().replace("all/0.png,cat", "all/0.png,dog"))
    assert len({first, second, data.load(str(table)).hash}) == 3


def test_images_that_metadata_do_not_name_are_counted(tmp_path):
    folder = in_metadata(tmp_path / "pets")
    save(folder / "train" / "extra.png", 1)
    assert data.load(str(folder)).notice.endswith("not used: 1 that no row names.")


@pytest.mark.parametrize("kind", ["arrays", "folders"])
def test_grey_and_coloured_splits_have_as_many_channels(kind, tmp_path):
    draw = np.random.default_rng(0)
    grey = draw.integers(0, 256, (4, 6, 6), "uint8")
    coloured = draw.integers(0, 256, (4, 6, 6, 3), "uint8")
    found = load_splits(tmp_path, kind, coloured, grey, image_size=(6, 6))
    assert found.train.images.shape == found.test.images.shape == (4, 6, 6, 3)
    as_grey = grey[..., None].repeat(3, axis=3)
    names = [found.classes[n % 2] for n in range(4)]
    for role, pixels in (("train", coloured), ("test", as_grey)):
        expected = zip((each.tobytes() for each in pixels), names, strict=True)
        assert content(found)[role] == {*expected}
    only = load_splits(tmp_path / "grey", kind, grey, grey)
    assert only.shape == (6, 6, 1)


@pytest.mark.parametrize("kind", ["arrays", "folders"])
def test_splits_of_two_sizes_are_refused(kind, tmp_path):
    small, large = (np.zeros((4, n, n, 3), "uint8") for n in (6, 7))
    with pytest.raises(UsageError, match=r"training images of \(6, 6, 3\) and test"):
        load_splits(tmp_path, kind, small, large)


def load_splits(place, kind, train, test, **options):
    """Load images of two classes in turn, written as an .npz or as image files."""
    place.mkdir(exist_ok=True)
    labels = np.arange(len(train)) % 2
    if kind == "arrays":
        np.savez(
            place / "set.npz", x_train=train, y_train=labels, x_test=test, y_test=labels
        )
        return data.load(str(place / "set.npz"), **options)
    for split, images in (("train", train), ("test", test)):
        for number, image in enumerate(images):
            folder = place / "set" / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number}.png")
    return data.load(str(place / "set"), **options)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train_set", "test_set"),
        ("training_set", "test_set"),
        ("Training", "Testing"),
        ("Train-Images", "Val Images"),
        ("traindata", "validation data"),
        ("trainset", "testset"),
    ],
)
def test_a_split_s_folder_has_any_usual_name(train, test, tmp_path):
    place = tmp_path / "set"
    for role, names in ((train, "abc"), (test, "d")):
        for label in ("cat", "dog"):
            for name in names:
                save(place / role / label / f"{name}.png", ord(name))
    found = data.load(str(place))
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.test)) == (6, 2)


@pytest.mark.parametrize("names", [("seg_one", "seg_two"), ("fold1", "fold2", "fold3")])
def test_classes_that_look_like_splits_are_named(names, tmp_path, capsys):
    place = tmp_path / "set"
    for number, name in enumerate(names):
        for label in ("cat", "dog"):
            for image in range(2):
                save(place / name / label / f"{image}.png", 10 * number + image)
    doubt = (
        f"ach of its classes, {', '.join(names)}, holds the folders cat, dog: where "
        "these are the classes, call the folders above train and test"
    )
    assert doubt in data.load(str(place)).notice
    assert main(["data", "check", str(place)]) == 0
    assert f"E{doubt}." in capsys.readouterr().out
    # Images beside the inner folders, or other folders, are none of a split's.
    save(place / names[0] / "loose.png", 99)
    assert doubt not in data.load(str(place)).notice


@pytest.mark.parametrize(
    "row", ["all\\{}.png,{}", " all/{}.png ,{}", "./all//{}.png,{}", "{}/all/{}"]
)
def test_a_row_names_a_file_as_other_systems_write_it(row, tmp_path):
    if row == "{}/all/{}":  # by its whole path
        row = str(tmp_path / "all" / "{}.png") + ",{}"
    lines = []
    for number in range(6):
        save(tmp_path / "all" / f"{number}.png", number)
        lines.append(row.format(number, ("cat", "dog")[number % 2]))
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]))
    found = data.load(str(tmp_path / "list.csv"))
    assert len(found.train) + len(found.test) == 6


def test_missing_files_are_named_before_what_follows_from_them(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", number)
    table = tmp_path / "list.csv"
    for names, reason in (("4567", "names 4.png, which"), ("0145", "names 4.png")):
        labels = zip(names, ("cat", "cat", "dog", "dog"), strict=True)
        rows = [f"{name}.png,{label}" for name, label in labels]
        table.write_text("\n".join(["path,label", *rows]))
        with pytest.raises(UsageError, match=reason):
            data.load(str(table))
