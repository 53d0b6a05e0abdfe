"""Any folder, table or .npz is loaded, or refused in one line: nothing else is raised.

What is loaded has labels within its classes, and images of both splits.
"""

import itertools
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from kerascnn import UsageError, data

FEW = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
HOW_MANY = [40, pytest.param(1000, marks=pytest.mark.slow)]
COUNTER = itertools.count()


def load(path, **options):
    """Load a set, or return `None` where it is refused in one line."""
    try:
        found = data.load(str(path), **options)
    except UsageError as refused:
        said = str(refused)
        found = None
    if found is None:
        assert said.strip()
        assert "\n" not in said
        return None
    assert len(found.classes) == len({*found.classes}) > 1
    for split in (found.train, found.test):
        assert split.images.dtype == np.uint8
        assert split.images.shape[0] == len(split.labels) > 0
        assert split.images.shape[1:] == found.shape
        assert 0 <= split.labels.min() <= split.labels.max() < len(found.classes)
    return found


def tried(check):
    """Return a check that works in a folder of its own each time, removed after it."""

    def run(folder, *drawn):
        place = folder / str(next(COUNTER))
        place.mkdir()
        try:
            check(place, *drawn)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    return run


def save(path, seed, shape=(6, 5, 3)):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


WORDS = st.sampled_from(
    [
        *(
            "path",
            "label",
            "split",
            "file_name",
            "class",
            "train",
            "test",
            "val",
            "cat",
        ),
        *(
            "dog",
            "a.png",
            "b.png",
            "c.png",
            "d.png",
            "e.png",
            "gone.png",
            "../a.png",
            ".",
        ),
        *("", " ", '"', '""', "\0", "é", "\udcff", "1", "-1", "/", "~", "a.png/b"),
    ]
)
CELLS = st.one_of(WORDS, WORDS, st.text(max_size=4))
ROWS = st.lists(st.lists(CELLS, max_size=4), max_size=8)
GOOD = [["a.png", "x"], ["b.png", "y"], ["c.png", "x"], ["d.png", "y"]]
HEADS = st.sampled_from(
    [["path", "label"], ["path", "label", "split"], ["Image", "Class"]]
)


@pytest.mark.parametrize("examples", HOW_MANY)
def test_any_table_is_loaded_or_refused(examples, tmp_path):
    @tried
    def load_it(place, head, good, rows, delimiter, ending, skip_bad):
        for name in "abcde":
            save(place / f"{name}.png", ord(name))
        lines = [delimiter.join(row) for row in (head, *(GOOD if good else ()), *rows)]
        table = place / f"list{ending}"
        table.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
        load(table, skip_bad=skip_bad)

    @settings(FEW, max_examples=examples)
    @given(
        st.tuples(
            st.one_of(HEADS, st.lists(CELLS, max_size=4)),
            st.booleans(),
            ROWS,
            st.sampled_from([",", ";", "\t"]),
            st.sampled_from([".csv", ".tsv", ".parquet"]),
            st.booleans(),
        )
    )
    def check(drawn):
        load_it(tmp_path, *drawn)

    check()


SHAPES = st.one_of(
    st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 6)),
    st.tuples(*[st.integers(0, 5)] * 4),
    st.lists(st.integers(0, 4), max_size=5).map(tuple),
)
DTYPES = st.sampled_from(
    [
        *("uint8", "int8", "uint16", "int64", "float16", "float32", "float64", "bool"),
        *("complex64", "U3", "S2", "M8[s]"),
    ]
)
KEYS = ["x_train", "y_train", "x_test", "y_test", "x", "y", "x_val", "y_val", "classes"]


@st.composite
def npz(draw):
    """Draw arrays under the usual names: often such as fit, often any."""
    found = {}
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=5, unique=True)):
        if draw(st.integers(0, 3)):  # of a usual kind
            n = draw(st.integers(2, 8))
            if key.startswith("x"):
                shape = (n, 4, 5, *draw(st.sampled_from([(), (1,), (3,), (4,)])))
                kind = draw(st.sampled_from(["uint8", "float32", "uint16", "bool"]))
                found[key] = np.ones(shape, kind)
            elif key == "classes":
                found[key] = np.array(["a", "b", "c"])
            else:
                found[key] = np.arange(n) % draw(st.integers(1, 3))
        else:
            found[key] = draw(arrays.arrays(draw(DTYPES), draw(SHAPES)))
    return found


@pytest.mark.parametrize("examples", HOW_MANY)
def test_any_arrays_are_loaded_or_refused(examples, tmp_path):
    @tried
    def load_it(place, found, damage, size):
        np.savez(place / "set.npz", **found)
        content = bytearray((place / "set.npz").read_bytes())
        if damage is not None:
            where, with_what = damage
            start = int(where * len(content))
            content[start : start + len(with_what)] = with_what
            (place / "set.npz").write_bytes(content)
        load(place / "set.npz", image_size=size)

    @settings(FEW, max_examples=examples)
    @given(
        st.tuples(
            npz(),
            st.none() | st.tuples(st.floats(0, 1), st.binary(max_size=8)),
            st.sampled_from([None, (3, 3)]),
        )
    )
    def check(drawn):
        load_it(tmp_path, *drawn)

    check()


FOLDERS = st.sampled_from(
    [
        *(
            "train",
            "test",
            "val",
            "Valid",
            "cat",
            "dog",
            ".hidden",
            "cat/in",
            "train/cat",
        ),
        *(
            "train/dog",
            "test/cat",
            "test/dog",
            "validation/cat",
            "é",
            "a b",
            "__MACOSX",
        ),
    ]
)
FILES = st.sampled_from(
    [
        *("0.png", "1.png", "2.JPG", "x.txt", "metadata.csv", "noise.png", "empty.png"),
        *(".png", "loop", "photo", "deep.png"),
    ]
)


def put(path, seed):
    """Write a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        return
    match path.name:
        case "x.txt":
            path.write_text("words")
        case "metadata.csv":
            rows = ["file_name,label", "0.png,cat", "1.png,dog", "2.JPG,cat"]
            path.write_text("\n".join(rows[: 2 + seed % 3]))
        case "noise.png" | ".png":
            path.write_bytes(bytes([seed % 256]) * 40)
        case "empty.png":
            path.write_bytes(b"")
        case "loop":
            path.unlink(missing_ok=True)
            path.symlink_to(path.parent)
        case "deep.png":
            Image.fromarray(np.full((6, 5), 999, "uint16")).save(path)
        case "photo":
            save(path.with_suffix(".jpg"), seed)
            path.with_suffix(".jpg").rename(path)
        case _:
            save(path, seed)


@pytest.mark.parametrize("examples", HOW_MANY)
def test_any_tree_of_folders_is_loaded_or_refused(examples, tmp_path):
    @tried
    def load_it(place, files, options):
        for seed, (folder, name) in enumerate(files):
            try:
                put(place / folder / name, seed)
            except (FileExistsError, NotADirectoryError):
                continue  # a file is where a folder would be
        load(place, **options)

    @settings(FEW, max_examples=examples)
    @given(
        st.tuples(
            st.lists(st.tuples(FOLDERS, FILES), max_size=14),
            st.fixed_dictionaries(
                {
                    "skip_bad": st.booleans(),
                    "image_size": st.sampled_from([None, (4, 4)]),
                    "channels": st.sampled_from([None, 1, 3]),
                }
            ),
        )
    )
    def check(drawn):
        load_it(tmp_path, *drawn)

    check()
