"""What lies in the package, and that it is packed."""

import hashlib
import json

import numpy as np
import pytest
from conftest import random_images

from kerascnn import data
from kerascnn.data import sample
from kerascnn.data.folders import SAMPLES
from kerascnn.data.official import OFFICIAL, content

FILES = [each for each in SAMPLES.rglob("*") if each.is_file()]


@pytest.mark.parametrize("name", OFFICIAL)
def test_samples_are_balanced_and_real(name):
    loaded = data.load(name, "sample")
    assert np.bincount(loaded.train.labels).tolist() == [250] * 10
    assert np.bincount(loaded.test.labels).tolist() == [100] * 10
    assert loaded.classes == OFFICIAL[name].classes
    assert loaded.shape == OFFICIAL[name].shape
    images = [each.tobytes() for each in (*loaded.train.images, *loaded.test.images)]
    assert len(set(images)) == 3500
    # Noise has neighbouring pixels that differ by 85 on average.
    steps = np.abs(np.diff(loaded.train.images.astype(int), axis=2)).mean()
    assert steps < 30


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_record_of_a_sample_is_right(name):
    file = data.prepared(name, SAMPLES) / "dataset_info.json"
    info = json.loads(file.read_text())
    assert info["fileFormat"] == "array_record"
    assert {each["name"]: each["shardLengths"] for each in info["splits"]} == {
        "train": ["2500"],
        "test": ["1000"],
    }
    assert "sample" in info["description"]
    assert "60000" not in info["description"].replace(",", "")


def test_samples_are_at_most_12_megabytes():
    assert sum(each.stat().st_size for each in FILES) < 12e6


def test_sources_and_licences_are_named():
    text = (SAMPLES / "README.md").read_text()
    for word in ("Krizhevsky", "2009", "Zalando", "MIT"):
        assert word in text


def test_the_choice_is_the_smallest_hashes_of_each_class():
    images, labels = random_images(60), np.arange(60) % 3
    chosen = sample.choose(images, labels, 4)
    digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
    expected = [
        index
        for label in range(3)
        for index in sorted(range(label, 60, 3), key=digests.__getitem__)[:4]
    ]
    assert chosen.tolist() == sorted(expected, key=digests.__getitem__)


def test_the_choice_does_not_depend_on_the_order():
    images, labels = random_images(60), np.arange(60) % 3
    shuffled = np.random.default_rng(1).permutation(60)
    chosen = sample.choose(images, labels, 5)
    again = sample.choose(images[shuffled], labels[shuffled], 5)
    np.testing.assert_array_equal(chosen, shuffled[again])


@pytest.mark.full_data
@pytest.mark.parametrize("name", OFFICIAL)
def test_samples_follow_their_rule(name, full_data):
    full = full_data(name)
    for split, number in sample.PER_CLASS.items():
        whole = getattr(full, split)
        chosen = sample.choose(whole.images, whole.labels, number)
        part = getattr(data.load(name, "sample"), split)
        assert content(part.images, part.labels) == content(
            whole.images[chosen], whole.labels[chosen]
        )


@pytest.mark.full_data
def test_samples_can_be_made_again(full_data, tmp_path):
    full_data("fashion_mnist")
    sample.make("fashion_mnist", tmp_path)
    again = data.load("fashion_mnist", "full", tmp_path)
    assert again.hash == data.load("fashion_mnist", "sample").hash


@pytest.mark.full_data
@pytest.mark.parametrize("name", OFFICIAL)
def test_the_true_contents(name, full_data):
    full = full_data(name)
    for split in ("train", "test"):
        part = getattr(full, split)
        OFFICIAL[name].check(split, part.images, part.labels)
