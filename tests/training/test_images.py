"""Recipes made to take other images: sizes, channels, classes, statistics."""

import dataclasses
import json
import math
import types

import keras
import numpy as np
import pytest
from PIL import Image

import kerascnn
from kerascnn import UsageError, data, describe, recipe
from kerascnn.cli.commands import main
from kerascnn.page import evidence
from kerascnn.prediction import evaluation, files
from kerascnn.prediction.predictor import Predictor
from kerascnn.training import build, images
from kerascnn.training.options import Overrides
from kerascnn.without_weights import without_weights


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def a_set(height, width, channels, classes=3):
    """Return a set of a few random images, as `suited` takes it."""
    split = types.SimpleNamespace(images=noise(6, height, width, channels))
    return types.SimpleNamespace(
        shape=(height, width, channels),
        classes=tuple("abcdefgh"[:classes]),
        train=split,
    )


def suited(chosen, size=None, classes=3):
    form = images.form(chosen, Overrides(image_size=size))
    return images.suited(chosen, a_set(*form["image_size"], form["channels"], classes))


NAMES = ["cifar_edges", "fashion_lenet_1x1", "fashion_padding"]
MORE = [
    pytest.param(name, marks=pytest.mark.slow if name not in NAMES else ())
    for name in recipe.names()
]


@pytest.mark.parametrize("name", MORE)
def test_every_recipe_is_rebuilt_for_another_size_and_number_of_classes(name):
    chosen = recipe.load(name)
    old = without_weights(chosen.network)
    for size in (None, 48):
        new = without_weights(suited(chosen, size).network)
        wanted = old.input_shape[1:] if size is None else (48, 48, old.input_shape[-1])
        assert new.input_shape[1:] == wanted
        assert new.output_shape == (None, 3)
        assert [type(x) for x in new.layers] == [type(x) for x in old.layers]


@pytest.mark.parametrize(
    "name", ["fashion_lenet", "cifar_skip_concat_12", "cifar_edges"]
)
def test_a_network_rebuilt_for_its_own_images_is_the_same(name):
    chosen = recipe.load(name)
    network = without_weights(chosen.network)
    shape, classes = network.input_shape[1:], network.output_shape[-1]
    again = dataclasses.replace(
        chosen, network=lambda: images.rebuilt(network, shape, classes)
    )
    assert describe.describe(again) == describe.describe(chosen)


def test_lenet_rebuilt_is_lenet_written_for_that_size():
    layers = keras.layers
    by_hand = keras.Sequential(
        [
            keras.Input((64, 64, 1)),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(120, activation="relu"),
            layers.Dense(84, activation="relu"),
            layers.Dense(3),
        ]
    )
    found = suited(recipe.load("fashion_lenet"), 64).network()
    assert [w.shape for w in found.weights] == [w.shape for w in by_hand.weights]
    scaled = np.random.default_rng(0).normal(size=(2, 64, 64, 1)).astype("float32")
    by_hand.set_weights(found.get_weights())
    np.testing.assert_allclose(
        found.predict(scaled, verbose=0), by_hand.predict(scaled, verbose=0), atol=1e-5
    )
    # PyTorch's default: uniform within 1 / sqrt(inputs of a unit), 14 x 14 x 16 now.
    dense = found.get_layer(index=-3)
    for weight in (dense.kernel, dense.bias):
        largest = np.abs(keras.ops.convert_to_numpy(weight)).max()
        # In float32, as the weights: 1 / 56 is rounded up, and a draw may be just that.
        bound = np.float32(1 / math.sqrt(14 * 14 * 16))
        assert 0.9 * bound < largest <= bound


def test_a_kernel_that_covers_its_map_covers_it_at_the_new_size():
    found = without_weights(suited(recipe.load("fashion_lenet_1x1"), 64).network)
    kernels = [
        x.kernel_size for x in found.layers if isinstance(x, keras.layers.Conv2D)
    ]
    assert kernels == [(3, 3), (3, 3), (16, 16), (1, 1)]


def test_a_size_that_a_network_does_not_take_is_a_line_with_one_that_it_does():
    with pytest.raises(UsageError, match=r"30 x 30 pixels .*: pass --image-size 32\."):
        suited(recipe.load("cifar_skip_12"), 30)
    with pytest.raises(UsageError, match=r"8 x 8 pixels and 3 classes .* --image-size"):
        suited(recipe.load("fashion_lenet"), 8)


def test_a_network_that_cant_be_rebuilt_is_a_line():
    class Own(keras.layers.Layer):
        def __init__(self, needed):
            super().__init__()

        def call(self, x):
            return x[:, 0, 0, :]

    def network():
        image = keras.Input((28, 28, 1))
        x = Own(1)(keras.layers.Concatenate()([image] * 10))
        return keras.Model(image, x)

    mine = dataclasses.replace(recipe.load("fashion_mlp"), network=network)
    with pytest.raises(UsageError, match=r"3 classes \(no layer has 10 units"):
        suited(mine)

    def with_units():
        image = keras.Input((28, 28, 1))
        return keras.Model(image, keras.layers.Dense(10)(Own(1)(image)))

    mine = dataclasses.replace(mine, network=with_units)
    with pytest.raises(UsageError, match=r"be rebuilt .*: take another recipe"):
        suited(mine, 300)


@pytest.mark.parametrize(
    ("name", "channels"), [("cifar_edges", 3), ("cifar_vgg", 3), ("fashion_mlp", 1)]
)
def test_images_have_the_channels_that_the_transform_takes(name, channels):
    found = images.form(recipe.load(name), Overrides(dataset="./x"))
    assert (found["channels"], found["exact"]) == (channels, True)


def test_standard_scales_by_the_sets_own_statistics():
    dataset = a_set(32, 32, 3)
    chosen = images.suited(recipe.load("cifar_vgg_aug"), dataset)
    _, kept = build.build(dataclasses.replace(chosen, name="mine"), (32, 32, 3))
    scaled = dataset.train.images
    for layer in kept.layers[1:-1]:
        scaled = layer(scaled)
    pixels = dataset.train.images.reshape(-1, 3) / 255
    expected = (pixels - pixels.mean(0)) / pixels.std(0)
    scaled = keras.ops.convert_to_numpy(scaled).reshape(-1, 3)
    np.testing.assert_allclose(scaled, expected, atol=1e-5)
    assert chosen.parameters == 0


def test_a_channel_that_is_the_same_everywhere_is_scaled_to_zero():
    dataset = a_set(32, 32, 3)
    dataset.train.images[..., 1] = 77
    for layer in images.suited(recipe.load("cifar_vgg"), dataset).transform():
        scaled = keras.ops.convert_to_numpy(layer(dataset.train.images))
    assert np.abs(scaled[..., 1]).max() < 1e-5


@pytest.fixture
def photos(tmp_path):
    """Forty images of two classes, of several sizes and kinds."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(20):
            height, width = (int(x) for x in rng.integers(20, 60, 2))
            pixels = noise(height, width, 3, seed=i) // 3 + 160 * label
            image = Image.fromarray(pixels)
            path = tmp_path / "photos" / name / f"{i}.png"
            if i % 4 == 0:
                image.putalpha(200)
            elif i % 4 == 1:
                image, path = image.convert("CMYK"), path.with_suffix(".jpg")
            image.save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 12, 3)])
def test_predict_prepares_images_as_training_does(photos, shape):
    found = data.load(str(photos), image_size=shape[:2], channels=shape[2], exact=True)
    trained = {i.tobytes() for s in (found.train, found.test) for i in s.images}
    read = files.read(files.find([photos])[0], shape)
    predicted = {each.image.tobytes() for some in read for each in some}
    assert trained == predicted
    assert len(trained) == 40


def test_a_run_on_photographs_goes_from_folder_to_prediction(photos, tmp_path, capsys):
    run = kerascnn.train(
        "fashion_mlp",
        dataset=str(photos),
        image_size=16,
        epochs=2,
        batch_size=8,
        out=tmp_path / "run",
    )
    said = capsys.readouterr().out
    assert "scaled to 16 x 16 pixels; 40 in colour: made grey." in said
    assert "rebuilt for images of 16 x 16 x 1 and 2 classes: 66,306 param" in said
    assert 66_306 == 16 * 16 * 256 + 256 + 256 * 2 + 2
    kept = run.config["data"]
    assert (kept["classes"], kept["image"]) == (["dark", "light"], [16, 16, 1])
    assert run.config["overrides"] == ["epochs", "batch_size", "dataset", "image_size"]
    # What looks at the run later finds the same images.
    seen = evidence.evaluated_images(run)
    assert seen.images.shape == (kept["test_images"], 16, 16, 1)
    again = evaluation.evaluate(Predictor(run), str(photos))
    assert again.accuracy == run.result["test_accuracy"]
    assert main(["predict", str(run.folder), str(photos), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 40


def test_a_resumed_run_has_the_same_images_and_network(photos, tmp_path):
    """Stopped after its first epoch, it ends with the bits of one that was not."""
    chosen = recipe.load("fashion_mlp")
    stopped = []

    class Stop(keras.callbacks.Callback):
        def get_config(self):
            return {}

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1 and not stopped:
                stopped.append(epoch)
                raise KeyboardInterrupt

    mine = dataclasses.replace(chosen, callbacks=lambda: [Stop()])
    options = {"dataset": str(photos), "image_size": 16, "batch_size": 8, "epochs": 2}
    with pytest.raises(KeyboardInterrupt):
        kerascnn.train(mine, out=tmp_path / "stopped", **options)
    resumed = kerascnn.train(mine, resume=tmp_path / "stopped")
    whole = kerascnn.train(mine, out=tmp_path / "whole", **options)
    assert resumed.result["weights_sha256"] == whole.result["weights_sha256"]


def test_another_set_of_tensorflow_datasets_is_brought_to_the_recipe():
    found = images.loaded(
        recipe.load("fashion_lenet"), Overrides(dataset="cifar10", data="sample")
    )
    assert found.dataset.shape == (28, 28, 1)
    assert "3,500 images of another size" in found.dataset.brought
    assert "made grey" in found.dataset.brought
    colours = data.load("cifar10", "sample").test.images[0]
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    expected = np.asarray(
        Image.fromarray(grey).resize((28, 28), Image.Resampling.BILINEAR)
    )
    found = found.dataset.test.images[0, ..., 0].astype(int)
    assert np.abs(found - expected).max() <= 2


def test_a_recipe_on_its_own_set_is_left_as_it_is():
    chosen = recipe.load("fashion_lenet")
    found = images.loaded(chosen, Overrides(dataset="fashion_mnist", data="sample"))
    assert found.recipe.network is chosen.network
    assert found.said is None


def test_statistics_take_a_size(photos, capsys):
    assert main(["data", "statistics", str(photos), "--image-size", "24"]) == 0
    shown = capsys.readouterr()
    assert "scaled to 24 x 24" in shown.err
    pixels = data.load(str(photos), image_size=(24, 24)).train.images / 255
    mean = ", ".join(f"{x:.4f}" for x in pixels.mean((0, 1, 2)))
    assert f"mean ({mean})" in shown.out


@pytest.mark.parametrize("size", ["0", "5000", "x"])
def test_sizes_out_of_range_are_a_line(size, capsys):
    assert main(["run", "fashion_mlp", "--image-size", size]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
