"""Exported models compute what Keras does, in each format and for each recipe."""

import errno
import importlib.util
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import UsageError, data, recipe
from kerascnn.cli import commands
from kerascnn.export import formats, torch_module
from kerascnn.training import build

onnxruntime = pytest.importorskip("onnxruntime")
onnx_graph = pytest.importorskip("kerascnn.export.onnx_graph")


def by_onnx(model):
    content = onnx_graph.of_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"image": images})[0]


def by_torch(model):
    """The exported class's logits, its text run here."""
    torch = pytest.importorskip("torch")
    names = [str(n) for n in range(model.output_shape[-1])]
    text, tensors = torch_module.of_model(model, "some_net", names, "some_net")
    assert max(map(len, text.splitlines())) <= 88
    found = {"__file__": "some_net.py", "__name__": "some_net"}
    exec(compile(text, "some_net.py", "exec"), found)
    network = found["SomeNet"]()
    network.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    network.eval()

    def logits(images):
        with torch.no_grad():
            return network(torch.from_numpy(images.copy())).numpy()

    return logits


BY = {"onnx": by_onnx, "torch": by_torch}
EACH = pytest.mark.parametrize("by", BY.values(), ids=BY)


@pytest.fixture(scope="module")
def run(copied_lenet):
    return copied_lenet


@pytest.fixture(scope="module")
def images():
    return np.asarray(data.load("fashion_mnist", "sample").test.images[:20])


@pytest.fixture(scope="module")
def expected(run, images):
    model = keras.saving.load_model(run.folder / "model.keras")
    return model.predict(images, verbose=0)


def export(run, *words):
    return commands.main(["export", str(run.folder), *map(str, words)])


@pytest.mark.parametrize("batch", [1, 7])
def test_onnx_takes_batches_of_any_size(run, images, expected, tmp_path, batch, capsys):
    file = tmp_path / "net.onnx"
    assert export(run, "--to", "onnx", "--out", file) == 0
    assert "the logits of 64 images are within" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"image": images[:batch]})[0]
    np.testing.assert_allclose(found, expected[:batch], atol=1e-5)
    described = json.loads((tmp_path / "net.onnx.json").read_text())
    assert described["classes"] == run.config["data"]["classes"]
    assert described["input"]["shape"] == ["n", 28, 28, 1]
    assert described["checked"]["largest_difference"] < 1e-5
    for word in ("EXIF", "28 x 28", "0.299 red"):
        assert word in described["input"]["of_files"]


def test_stablehlo_takes_batches_of_any_size(run, images, expected, tmp_path):
    from jax import export as exporting

    file = tmp_path / "net.stablehlo"
    assert export(run, "--to", "stablehlo", "--out", file) == 0
    read = exporting.deserialize(bytearray(file.read_bytes()))
    assert {"cpu", "cuda"} <= {*read.platforms}
    for batch in (1, 7):
        found = np.asarray(read.call(images[:batch]))
        np.testing.assert_allclose(found, expected[:batch], atol=1e-5)


@pytest.mark.slow
@pytest.mark.needs("tensorflow")
@pytest.mark.parametrize(
    ("to", "name"), [("savedmodel", "net"), ("litert", "net.tflite")]
)
def test_tensorflow_s_formats_are_written_and_checked(run, tmp_path, to, name):
    assert export(run, "--to", to, "--out", tmp_path / name) == 0
    described = json.loads((tmp_path / f"{name}.json").read_text())
    assert described["checked"] == pytest.approx(
        {"images": 64, "largest_difference": 0}, abs=1e-4
    )


@pytest.mark.needs("tensorflow")
def test_a_litert_file_has_its_ending(run, tmp_path, capsys):
    assert export(run, "--to", "litert", "--out", tmp_path / "net") == 2
    assert "ends in .tflite" in capsys.readouterr().err


def test_the_run_s_own_file_is_described(run):
    assert export(run, "--to", "keras") == 0
    described = json.loads((run.folder / "model.keras.json").read_text())
    assert described["recipe"] == "fashion_lenet"
    assert described["test_accuracy"] == run.result["test_accuracy"]


NAMES = recipe.names()
QUICK = ["cifar_edges", "fashion_down_resize", "fashion_lenet_1x1"]


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
    ],
)
def test_each_recipe_s_logits_are_keras_s(name):
    chosen = recipe.load(name)
    keras.utils.set_random_seed(0)
    size = build.image_size(chosen)
    found = data.load(chosen.dataset, "sample", image_size=size).test.images
    some = np.asarray(found[: 2 if name == "imagenet_vgg16" else 64])
    _, model = build.build(chosen, some.shape[1:])
    rng = np.random.default_rng(0)
    for layer in model.layers[-1].layers:  # as if they were trained
        if isinstance(layer, layers.BatchNormalization):
            n = layer.moving_mean.shape
            layer.moving_mean.assign(rng.normal(size=n))
            layer.moving_variance.assign(rng.uniform(0.5, 2, n))
    expected = model.predict(some, verbose=0)
    scale = max(1, abs(expected).max())
    for by in BY.values():
        found = by(model)
        for images in (some, some[:1], some[:7]):
            wanted = expected[: len(images)]
            np.testing.assert_allclose(found(images), wanted, atol=1e-4 * scale)


def net(*inside):
    image = keras.Input((9, 8, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255, offset=[-0.5, 0.0, 0.5])(image)
    for layer in inside:
        x = layer(x)
    x = x if len(x.shape) == 2 else layers.Flatten()(x)
    return keras.Model(image, layers.Dense(4)(x))


@pytest.mark.parametrize(
    "inside",
    [
        [layers.Conv2D(6, 3, strides=2, padding="same", activation="silu")],
        [layers.Conv2D(6, (2, 3), dilation_rate=2, use_bias=False)],
        [layers.Conv2D(6, 3, groups=3), layers.ReLU()],
        [layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")],
        [layers.AveragePooling2D(3, strides=2, padding="same")],
        [layers.MaxPooling2D(3, strides=2, padding="same")],
        [layers.BatchNormalization(scale=False), layers.Dropout(0.5)],
        [layers.Conv2D(6, 4, padding="same"), layers.MaxPooling2D(2, padding="same")],
        [layers.Conv2D(6, (3, 4), strides=3, padding="same", name="float")],
        [layers.AveragePooling2D((2, 4), strides=(2, 3), padding="same")],
        [layers.MaxPooling2D(3, strides=1, padding="same")],
        [layers.Flatten(), layers.Dense(5, activation="softmax", name="a-b")],
        [layers.GlobalAveragePooling2D(), layers.Dense(5, activation="elu")],
        [layers.GlobalMaxPooling2D(keepdims=True)],
        [layers.Dense(5, activation="tanh"), layers.ZeroPadding2D((1, 2))],
        [layers.Resizing(5, 7, antialias=True)],
        [layers.Resizing(6, 6, crop_to_aspect_ratio=True)],
        [keras.Sequential([layers.Conv2D(4, 1), layers.Activation("softplus")])],
    ],
    ids=lambda inside: "+".join(layer.name for layer in inside),
)
@EACH
def test_layers_compute_as_in_keras(inside, by):
    model = net(*inside)
    some = np.random.default_rng(1).integers(0, 256, (5, 9, 8, 3), np.uint8)
    expected = model.predict(some, verbose=0)
    np.testing.assert_allclose(by(model)(some), expected, atol=1e-4)


@EACH
@pytest.mark.parametrize("size", [(5, 7), (13, 16)])
@pytest.mark.parametrize(
    "options",
    [
        {"crop_to_aspect_ratio": True, "antialias": True},
        {"interpolation": "bicubic"},  # beyond 0 to 255, but for Keras's clipping
        {"interpolation": "nearest"},
    ],
    ids=["smaller", "beyond", "nearest"],
)
@pytest.mark.few("beyond-size1-onnx", "smaller-size0-torch")
def test_raw_images_are_resized_to_integers_as_in_keras(options, size, by):
    image = keras.Input((9, 8, 3), dtype="uint8")
    x = layers.Rescaling(1.0)(layers.Resizing(*size, **options)(image))
    model = keras.Model(image, layers.Flatten()(x))
    some = np.random.default_rng(1).choice(np.array([0, 7, 255], "uint8"), (5, 9, 8, 3))
    expected = model.predict(some, verbose=0)
    found = by(model)(some)
    np.testing.assert_array_equal(found, found.round())
    # Numbers between two levels are rounded to either.
    assert np.mean(found != expected) < 0.01
    assert np.abs(found - expected).max() <= 1


@EACH
def test_branches_meet(by):
    image = keras.Input((6, 6, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    one, other = layers.Conv2D(4, 1)(x), layers.Conv2D(4, 3, padding="same")(x)
    both = one + other, layers.Subtract()([one, other]), layers.Multiply()([one, other])
    x = layers.Concatenate()([*both, one])
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    some = np.random.default_rng(2).integers(0, 256, (3, 6, 6, 3), np.uint8)
    expected = model.predict(some, verbose=0)
    np.testing.assert_allclose(by(model)(some), expected, atol=1e-4)


@EACH
@pytest.mark.parametrize(
    "inside",
    [
        [layers.LayerNormalization(name="mine")],
        [layers.Conv2D(4, 3, activation="selu", name="mine")],
        [layers.ReLU(max_value=6, name="mine")],
        [layers.Activation("softmax", name="mine")],
        [layers.BatchNormalization(axis=1, name="mine")],
    ],
    ids=lambda inside: type(inside[0]).__name__,
)
def test_a_layer_without_a_mapping_is_named(inside, by):
    with pytest.raises(UsageError, match=r"'mine'.*--to stablehlo"):
        by(net(*inside))


@EACH
def test_a_sum_with_a_constant_is_named(by):
    image = keras.Input((6, 6, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    logits = layers.Dense(3)(layers.Flatten()(x + 1))
    with pytest.raises(UsageError, match="a Add, takes a constant"):
        by(keras.Model(image, logits))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "onnx", "--out", "here.onnx"], "here.onnx exists"),
        (["--to", "onnx", "--out", "gone/x.onnx"], "there is no folder gone"),
        (["--to", "keras", "--out", "x.h5"], "ends in .keras"),
        *(
            pytest.param(
                ["--to", "torch", "--out", out], said, marks=pytest.mark.needs("torch")
            )
            for out, said in (
                ("x.pt", "ends in .py"),
                ("my net.py", "letters, digits and underscores"),
            )
        ),
        (["--to", "torch", "--out", "there.py"], "there.safetensors exists"),
        (["--to", "onxx"], "did you mean onnx"),
        (["--to", "pdf"], "--to"),
        ([], "--to"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, monkeypatch, capfd, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.onnx").write_bytes(b"mine")
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    assert export(run, *words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert (tmp_path / "here.onnx").read_bytes() == b"mine"


@pytest.mark.needs("torch")
def test_pytorch_runs_the_file_without_this_package(run, images, expected, tmp_path):
    file = tmp_path / "net.py"
    assert export(run, "--to", "torch", "--out", file) == 0
    np.save(tmp_path / "images.npy", images)
    program = """
import sys
import numpy as np, torch
from net import CLASSES, load
images = torch.from_numpy(np.load("images.npy"))
with torch.no_grad():
    logits = [load()(images[:n]) for n in (1, 7, 20)]
np.savez("logits.npz", *(each.numpy() for each in logits))
print({"keras", "kerascnn", "jax"} & {*sys.modules}, CLASSES[-1])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == f"set() {run.config['data']['classes'][-1]}\n", done.stderr
    with np.load(tmp_path / "logits.npz") as found:
        for logits in found.values():
            np.testing.assert_allclose(logits, expected[: len(logits)], atol=1e-5)
    described = json.loads((tmp_path / "net.py.json").read_text())
    assert described["checked"]["images"] == 64


@pytest.mark.parametrize(
    ("to", "package"), [("torch", "torch"), ("onnx", "onnxruntime"), ("litert", "ten")]
)
def test_a_package_that_is_missing_is_a_line(
    run, tmp_path, monkeypatch, capfd, unchanged, to, package
):
    find = importlib.util.find_spec

    def missing(name, *more):
        return None if name.startswith(package) else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with unchanged(tmp_path):
        assert export(run, "--to", to, "--out", tmp_path / "net.py") == 2
    said = capfd.readouterr().err
    assert "not installed: pip install " in said
    assert len(said.splitlines()) == 1


# By format, the name of a file that it may have.
FILES = {to: f"net{ending}" for to, ending in formats.ENDINGS.items()}


@pytest.mark.parametrize("to", FILES)
def test_a_writer_that_fails_leaves_all_as_it_was(
    run, tmp_path, monkeypatch, capfd, unchanged, to
):
    def half(run, model, file, images):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(formats._WRITERS, to, half)
    (tmp_path / "mine").write_text("mine")
    with unchanged(tmp_path), unchanged(run.folder):
        assert export(run, "--to", to, "--out", tmp_path / FILES[to]) == 2
    assert "No space left on device" in capfd.readouterr().err


@pytest.mark.parametrize(
    "to",
    [
        pytest.param(
            to, marks=pytest.mark.slow if to in ("savedmodel", "litert") else ()
        )
        for to in FILES
    ],
)
def test_other_logits_than_keras_s_leave_all_as_it_was(
    run, tmp_path, monkeypatch, capfd, unchanged, to
):
    if to in ("savedmodel", "litert"):
        pytest.importorskip("tensorflow")
    if to == "torch":
        pytest.importorskip("torch")
    monkeypatch.setattr(formats, "TOLERANCE", -1.0)
    with unchanged(tmp_path), unchanged(run.folder):
        assert export(run, "--to", to, "--out", tmp_path / FILES[to]) == 2
    assert "differ from Keras's" in capfd.readouterr().err


@pytest.mark.parametrize("to", FILES)
@pytest.mark.parametrize("beside", ["", ".json"])
def test_what_stands_there_stays(run, tmp_path, capfd, unchanged, to, beside):
    there = tmp_path / f"{FILES[to]}{beside}"
    there.write_text("mine")
    with unchanged(tmp_path):
        assert export(run, "--to", to, "--out", tmp_path / FILES[to]) == 2
    assert f"{there} exists" in capfd.readouterr().err


def test_a_network_that_comes_with_the_package_is_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # the bundled images serve
    assert commands.main(["export", "cifar10", "--to", "onnx"]) == 0
    described = json.loads((tmp_path / "cifar10.onnx.json").read_text())
    assert described["checked"]["images"] == 64
