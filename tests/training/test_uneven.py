"""Classes of uneven size, batches larger than the set, sets larger than memory."""

import os
import types

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

import kerascnn
from kerascnn import UsageError, data
from kerascnn.engine import losses
from kerascnn.training import images

RNG = np.random.default_rng(0)
LABELS = np.array([0, 0, 0, 0, 0, 2, 2, 1])
LOGITS = RNG.normal(size=(8, 3)).astype("float32")


def a_set(labels, classes=3):
    split = data.Split(np.zeros((len(labels), 2, 2, 1), "uint8"), np.array(labels))
    return types.SimpleNamespace(classes=tuple("abcdef"[:classes]), train=split)


def test_weights_are_scikit_learns_balanced_ones():
    for _ in range(20):
        labels = np.concatenate([RNG.integers(0, 4, 30), np.arange(4)])
        found = images.class_weights(a_set(labels, 4), a_set(labels, 4).train)
        wanted = compute_class_weight("balanced", classes=np.arange(4), y=labels)
        np.testing.assert_allclose(found, wanted)
        assert np.mean(np.array(found)[labels]) == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_weighted_mean_over_images(smoothing):
    weights = [0.5, 4.0, 1.5]
    found = losses.SmoothedCrossentropy(smoothing, weights)(LABELS, LOGITS)
    logits = LOGITS.astype("float64")
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    shares = np.eye(3)[LABELS] * (1 - smoothing) + smoothing / 3
    entropy = -(shares * logs).sum(1)
    expected = (entropy * np.array(weights)[LABELS]).mean()
    assert float(found) == pytest.approx(expected, rel=1e-6)
    again = losses.SmoothedCrossentropy.from_config(
        losses.SmoothedCrossentropy(smoothing, weights).get_config()
    )
    assert float(again(LABELS, LOGITS)) == float(found)


def test_a_step_is_that_of_keras_with_class_weight():
    weights = [0.5, 4.0, 1.5]
    kernels = []
    for loss, asked in (
        (losses.SmoothedCrossentropy(0.0, weights), None),
        (
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            dict(enumerate(weights)),
        ),
    ):
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="zeros")]
        )
        model.compile(keras.optimizers.SGD(0.5), loss)
        model.fit(LOGITS, LABELS, class_weight=asked, batch_size=8, verbose=0)
        kernels.append(keras.ops.convert_to_numpy(model.layers[0].kernel))
    np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-6)


@pytest.fixture
def uneven(tmp_path):
    """Thirty dark and ten light images, 28 x 28, grey."""
    for label, (name, count) in enumerate((("dark", 30), ("light", 10))):
        for role, n in (("train", count), ("test", 4)):
            folder = tmp_path / "uneven" / role / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = RNG.integers(0, 200, (28, 28), np.uint8) + 50 * label
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
    return str(tmp_path / "uneven")


def test_uneven_classes_and_large_batches_are_named_and_both_engines_weigh(
    uneven, tmp_path, capsys
):
    lost, options = {}, {"dataset": uneven, "epochs": 1, "learning_rate": 1e-3}
    for name, more in {
        "epoch": {"engine": "epoch", "class_weights": True},
        "fit": {"engine": "fit", "class_weights": True},
        "plain": {"engine": "fit"},
    }.items():
        run = kerascnn.train("fashion_mlp", out=tmp_path / name, **options, **more)
        said = capsys.readouterr().out
        assert "40 training images" not in said
        assert "10 training images of light, 30 of dark" in said
        assert (
            "A batch of 1,024 is larger than the training set: batches of 40, one step"
            in said
        )
        assert ("--class-weights gives" in said) == (name == "plain")
        assert ("weighed 2 and 0.667 in the loss" in said) == (name != "plain")
        assert run.config["batch_size"] == 40
        lost[name] = run.metrics[0]["loss"], run.metrics[0]["crossentropy"]
    assert lost["epoch"] == pytest.approx(lost["fit"], rel=1e-5)
    assert lost["plain"][0] == pytest.approx(lost["plain"][1], rel=1e-5)
    assert abs(lost["fit"][0] - lost["fit"][1]) > 1e-3
    assert "class_weights" in run.config["options"]


def test_even_classes_are_not_named():
    assert images.imbalance(a_set([0, 1, 2, 2]), None).startswith("Uneven classes: 1 ")
    assert images.imbalance(a_set([0, 0, 1, 1, 2, 2, 2]), None) is None


def test_a_set_larger_than_memory_is_a_line(uneven, monkeypatch):
    pages = {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", lambda name: pages.get(name, 1))
    with pytest.raises(UsageError, match="48 images of 64 x 64 x 3 take 590 kB, and"):
        data.load(uneven, image_size=(64, 64))
    assert data.load(uneven, image_size=(8, 8)).shape == (8, 8, 1)
