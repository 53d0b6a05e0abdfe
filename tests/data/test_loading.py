import json
import os
import socket
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from conftest import png, random_images

from kerascnn import UsageError, data
from kerascnn.data import cache

SAMPLES = {"cifar10": (32, 32, 3), "fashion_mnist": (28, 28, 1)}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("name", SAMPLES)
def test_auto_takes_the_sample_where_nothing_is_prepared(name, no_network):
    loaded = data.load(name)
    assert loaded.sample
    assert loaded.source == "bundled sample"
    assert (loaded.name, loaded.shape) == (name, SAMPLES[name])
    assert (len(loaded.train), len(loaded.test)) == (2500, 1000)
    assert len(loaded.notice.splitlines()) <= 2
    folder = os.environ["TFDS_DATA_DIR"]
    for words in (name, "2,500", "1,000", folder, f"kerascnn data get {name}"):
        assert words in loaded.notice


def test_auto_takes_what_is_prepared(tiny, tmp_path, no_network):
    folder = tiny(name="cifar10")
    loaded = data.load("cifar10", data_dir=tmp_path / "data")
    assert (loaded.sample, loaded.notice, loaded.source) == (False, None, str(folder))
    assert (len(loaded.train), len(loaded.test), loaded.version) == (40, 10, "1.0.0")
    assert data.load("cifar10", "sample").sample
    with pytest.raises(UsageError, match="the sample comes with the package"):
        data.load("cifar10", "sample", tmp_path / "data")


def test_images_and_labels_are_what_was_written(tiny):
    tiny()
    loaded = data.load("tiny", data_dir=tiny().parents[1])
    images = random_images(50)
    assert loaded.classes == ("no", "yes")
    for split, written in ((loaded.train, images[:40]), (loaded.test, images[40:])):
        # tfds shuffles, so each image is looked up; the labels alternate.
        place = {image.tobytes(): index for index, image in enumerate(written)}
        found = [place[image.tobytes()] for image in split.images]
        assert sorted(found) == list(range(len(written)))
        assert split.labels.tolist() == [index % 2 for index in found]
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert isinstance(split.images, np.memmap)
        for array in (split.images, split.labels):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_what_has_been_checked_is_mapped_anew(tiny, monkeypatch):
    """The pages that a check has read would count as memory, 180 MB of CIFAR-10."""
    folder = tiny()
    checked = []
    digest = cache.digest
    monkeypatch.setattr(
        cache, "digest", lambda array: checked.append(array) or digest(array)
    )
    for _ in range(2):  # the second time from what the first has kept
        loaded = data.load("tiny", data_dir=folder.parents[1])
    assert len(checked) >= 4
    arrays = (loaded.train.images, loaded.test.images)
    assert not any(np.shares_memory(*pair) for pair in product(arrays, checked))


def test_data_dir_wins_over_the_environment(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "one"))
    one, two = (tiny(folder=tmp_path / each) for each in ("one", "two"))
    assert data.load("tiny").source == str(one)
    assert data.load("tiny", data_dir=tmp_path / "two").source == str(two)


def test_a_data_dir_without_the_set_is_no_reason_for_the_sample(tmp_path):
    with pytest.raises(UsageError, match=r"not prepared in .*--data sample"):
        data.load("cifar10", data_dir=tmp_path)


def test_the_newest_version_or_the_one_named(tiny, tmp_path):
    old = tiny()
    new = old.with_name("1.10.0")
    old.rename(new)
    tiny(seed=1)
    info = new / "dataset_info.json"
    info.write_text(info.read_text().replace('"1.0.0"', '"1.10.0"'))
    for name, version in (("tiny", "1.10.0"), ("tiny:1.0.0", "1.0.0")):
        assert data.load(name, data_dir=tmp_path / "data").version == version


def test_configurations(tiny, tmp_path):
    tiny(name="many", config="a")
    directory = tmp_path / "data"
    assert data.load("many", data_dir=directory).name == "many/a"
    tiny(name="many", config="b", seed=1)
    assert data.load("many/b", data_dir=directory).name == "many/b"
    # tfds notes the default: the first configuration of the builder.
    note = directory / "many" / ".config" / "metadata.json"
    note.write_text(json.dumps({"default_config_name": "b"}))
    assert data.load("many", data_dir=directory).name == "many/b"
    for damaged in ("{", "[]", '{"default_config_name": []}'):
        note.write_text(damaged)
        with pytest.raises(UsageError, match="many/a, many/b"):
            data.load("many", data_dir=directory)
    note.unlink()
    with pytest.raises(UsageError, match="many/a, many/b"):
        data.load("many", data_dir=directory)


def test_a_validation_split_serves_as_test(prepare, tmp_path):
    rows = [{"image": png(image), "label": 1} for image in random_images(5)]
    prepare({"train": rows[:3], "validation": rows[3:]})
    loaded = data.load("tiny", data_dir=tmp_path / "data")
    assert (len(loaded.train), len(loaded.test)) == (3, 2)


def test_of_training_images_alone_every_tenth_is_held_out(prepare, tmp_path):
    """As in cats_vs_dogs and tf_flowers; 600 images are several chunks."""
    images = random_images(600)
    rows = [{"image": png(image), "label": i % 2} for i, image in enumerate(images)]
    folder = prepare({"train": rows})
    # tfds shuffles what it prepares: its own reader says in which order it lies.
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(folder).as_data_source("train")
    whole = np.stack([example["image"] for example in source])
    labels = np.array([example["label"] for example in source])
    loaded = data.load("tiny", data_dir=tmp_path / "data")
    held = np.arange(600) % 10 == 9
    np.testing.assert_array_equal(loaded.test.images, whole[held])
    np.testing.assert_array_equal(loaded.test.labels, labels[held])
    np.testing.assert_array_equal(loaded.train.images, whole[~held])
    np.testing.assert_array_equal(loaded.train.labels, labels[~held])
    again = data.load("tiny", data_dir=tmp_path / "data")  # from the cache
    assert loaded.notice == again.notice
    assert "every tenth is held out to test on, 60 of them; 540 are" in loaded.notice
    assert not loaded.sample


def test_a_recipe_of_large_images_is_tried_on_another_sample(no_network):
    loaded = data.load("imagenette", "sample", image_size=(224, 224))
    assert loaded.sample
    assert loaded.name == "cifar10"
    assert "cifar10: the bundled sample instead of imagenette" in loaded.notice
    assert "The full set: kerascnn data get imagenette" in loaded.notice


def test_nobody_else_is_given_another_sample_than_he_asked_for(no_network):
    with pytest.raises(UsageError, match="imagenette has no bundled sample"):
        data.load("imagenette", "sample")


def test_other_sets_are_refused_with_what_was_found(prepare, tmp_path):
    import tensorflow_datasets as tfds

    features = tfds.features
    image = features.Image(shape=(8, 6, 3))
    row = {"image": png(random_images(1)[0])}
    for name, kinds, example, found in (
        ("texts", {"text": features.Text()}, {"text": "a"}, r"text \(Text\)"),
        (
            "captions",
            {"image": image, "label": features.Text()},
            row | {"label": "a"},
            r"image \(Image\), label \(Text\)",
        ),
    ):
        prepare({"train": [example], "test": [example]}, kinds, name=name)
        with pytest.raises(UsageError, match=f"{found}.*image classification"):
            data.load(name, data_dir=tmp_path / "data")
    labels = {"image": image, "label": features.ClassLabel(num_classes=2)}
    prepare({"test": [row | {"label": 0}]}, labels, name="untrained")
    with pytest.raises(UsageError, match="splits test: expected train and test"):
        data.load("untrained", data_dir=tmp_path / "data")
    prepare({"train": [row | {"label": 0}] * 9}, labels, name="small")
    with pytest.raises(UsageError, match="train has too few examples"):
        data.load("small", data_dir=tmp_path / "data")
    rows = [row | {"label": -1}]
    prepare({"train": rows, "test": rows}, labels, name="unlabelled")
    with pytest.raises(UsageError, match="unlabelled images"):
        data.load("unlabelled", data_dir=tmp_path / "data")


def test_images_of_unequal_size_need_a_size(prepare, tmp_path):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    rows = [
        {"image": png(random_images(1, shape)[0]), "label": 0}
        for shape in ((8, 6, 3), (8, 7, 3))
    ]
    prepare({"train": rows, "test": rows[:1]}, features)
    with pytest.raises(UsageError, match=r"unequal size.*\(8, [67], 3\).*Resizing"):
        data.load("tiny", data_dir=tmp_path / "data")
    folder = tmp_path / "data"
    small = data.load("tiny", data_dir=folder, image_size=(4, 3))
    assert small.train.images.shape == (2, 4, 3, 3)
    # Each size has its own arrays in the cache.
    large = data.load("tiny", data_dir=folder, image_size=(8, 6))
    assert random_images(1)[0].tolist() in large.train.images.tolist()
    again = data.load("tiny", data_dir=folder, image_size=(4, 3))
    assert np.array_equal(again.train.images, small.train.images)


def test_a_set_of_one_image_size_is_not_resized(tiny, tmp_path):
    tiny()
    loaded = data.load("tiny", data_dir=tmp_path / "data", image_size=(4, 4))
    assert loaded.shape == (8, 6, 3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar", "no data set 'cifar'.*did you mean cifar10"),
        ("Fashion-MNIST", "cannot be the name"),
        ("FashionMNIST", "did you mean fashion_mnist"),
        ("zzzzz", "no data set 'zzzzz' in tensorflow-datasets"),
        ("mnist", "no bundled sample.*data get mnist.*--data-dir"),
        ("../cifar10", "there is no folder .*cifar10"),
        ("", "cannot be the name"),
    ],
)
def test_names_that_lead_nowhere(name, expected, no_network):
    for choice in ("auto", "sample"):
        with pytest.raises(UsageError, match=expected) as caught:
            data.load(name, choice)
        assert "\n" not in str(caught.value)


def test_choice_of_data():
    with pytest.raises(UsageError, match=r"'ful'.*did you mean full"):
        data.load("cifar10", "ful")


def shards(folder):
    return sorted(folder.glob("*array_record*"))


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:500] + bytes(200) + content[700:],
        lambda content: b"some text\n" * 1000,
    ],
    ids=["truncated", "empty", "overwritten", "foreign"],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_file_is_named_and_not_trained_on(tiny, tmp_path, harm, split):
    file = next(each for each in shards(tiny()) if split in each.name)
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(UsageError, match=r"damaged.*kerascnn data get tiny") as caught:
        data.load("tiny", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*"))


def test_a_missing_file_is_named(tiny, tmp_path):
    file = shards(tiny())[0]
    file.unlink()
    with pytest.raises(UsageError, match=file.name):
        data.load("tiny", data_dir=tmp_path / "data")


@pytest.mark.parametrize("claimed", ["39", "41"])
def test_counts_must_be_those_of_the_record(tiny, tmp_path, claimed):
    info = tiny() / "dataset_info.json"
    info.write_text(info.read_text().replace('"40"', f'"{claimed}"'))
    with pytest.raises(UsageError, match=f"40 examples instead of {claimed}"):
        data.load("tiny", data_dir=tmp_path / "data")


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_a_damaged_record_is_one_line(tiny, tmp_path, name):
    (tiny() / name).write_text("{ no json")
    with pytest.raises(UsageError, match="cannot be read as a prepared set") as caught:
        data.load("tiny", data_dir=tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_tfrecord_without_tensorflow(tiny, tmp_path, monkeypatch):
    info = tiny() / "dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"tfrecord form.*pip install tensorflow"):
        data.load("tiny", data_dir=tmp_path / "data")


def test_array_record_where_it_cannot_be_installed(tiny, tmp_path, monkeypatch):
    tiny()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="no package array_record for this platform"):
        data.load("tiny", data_dir=tmp_path / "data")


def test_array_record_is_read_without_tensorflow(tmp_path):
    code = """
import sys
import kerascnn.data
heavy = {"tensorflow", "tensorflow_datasets", "PIL", "keras", "jax", "rich"}
print(sorted(heavy & set(sys.modules)))
loaded = kerascnn.data.load("cifar10", "sample", cache_dir=sys.argv[1])
print("tensorflow_datasets" in sys.modules, "tensorflow" in sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "cache")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split("\n")[:2] == ["[]", "True False"]
    assert answer.stderr == ""  # no advice on OpenCV, no progress bar off a terminal


@pytest.mark.slow
@pytest.mark.full_data
@pytest.mark.parametrize(
    ("name", "train", "classes"),
    [("cifar10", 50_000, "airplane"), ("fashion_mnist", 60_000, "T-shirt/top")],
)
def test_the_full_sets(name, train, classes, full_data):
    loaded = full_data(name)
    assert (len(loaded.train), len(loaded.test)) == (train, 10_000)
    assert (loaded.shape, loaded.classes[0]) == (SAMPLES[name], classes)
    for split in (loaded.train, loaded.test):
        assert np.bincount(split.labels).tolist() == [len(split) // 10] * 10
    assert data.load(name).hash == loaded.hash
