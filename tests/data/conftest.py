"""Small prepared sets, and folders of their own, for the tests of the data."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kerascnn import data

# Before a test changes the environment: where the full sets may be, and their cache.
FULL = os.environ.get("TFDS_DATA_DIR")
CACHE = os.environ.get("KERASCNN_CACHE_DIR")


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path, tmp_path_factory):
    """No test reads or writes the user's own data, or shares a data folder."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("KERASCNN_CACHE_DIR", str(cache))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_data_here"))


@pytest.fixture
def full_data(monkeypatch):
    """Point TFDS_DATA_DIR at the full sets and load them; skip where there are none.

    They are decoded into the user's own cache, which spares the next run half a minute.
    """

    def load(name):
        if FULL is None or data.prepared(name, FULL) is None:
            pytest.skip(f"TFDS_DATA_DIR does not hold the full {name}")
        monkeypatch.setenv("TFDS_DATA_DIR", FULL)
        monkeypatch.delenv("KERASCNN_CACHE_DIR")
        if CACHE:
            monkeypatch.setenv("KERASCNN_CACHE_DIR", CACHE)
        return data.load(name, data="full")

    return load


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def random_images(count, shape=(8, 6, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


@pytest.fixture
def prepare(tmp_path):
    """Prepare a set of any features with tfds, as a user would have done."""

    def make(examples, features=None, name="tiny", folder=None, config=None):
        """`examples`: {split: [example, ...]}; returns the folder of the version."""
        import tensorflow_datasets as tfds

        features = features or {
            "image": tfds.features.Image(shape=(8, 6, 3)),
            "label": tfds.features.ClassLabel(names=["no", "yes"]),
        }

        class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version("1.0.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, manager):
                return {split: enumerate(rows) for split, rows in examples.items()}

            def _generate_examples(self):
                raise NotImplementedError

        Tiny.name = name
        builder = Tiny(
            data_dir=str(folder or tmp_path / "data"),
            file_format="array_record",
            **({"config": config} if config else {}),
        )
        tfds.display_progress_bar(False)
        builder.download_and_prepare(download_dir=str(tmp_path / "downloads"))
        return Path(builder.data_dir)

    return make


@pytest.fixture
def tiny(prepare):
    """Forty training and ten test images of two classes; returns a maker."""

    def make(seed=0, **options):
        images = random_images(50, seed=seed)
        rows = [
            {"image": png(image), "label": index % 2}
            for index, image in enumerate(images)
        ]
        return prepare({"train": rows[:40], "test": rows[40:]}, **options)

    return make
