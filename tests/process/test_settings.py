"""Keras's process-wide settings change nothing in a recipe, and stay the user's."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from keras import layers

import kerascnn
from kerascnn import UsageError, describe, recipe, transforms
from kerascnn.bench import with_keras
from kerascnn.cli import commands
from kerascnn.parity import worker
from kerascnn.process import settings
from kerascnn.recipe import Course, Recipe
from kerascnn.report import card
from kerascnn.runs import Run
from kerascnn.studies import backends
from kerascnn.training import build
from kerascnn.training import options as run_options
from kerascnn.training import run as training_run
from kerascnn.without_weights import without_weights

ROOT = str(Path(kerascnn.__file__).parents[1])

# One that is not Keras's own for each setting, and for the types each other one.
OTHERS = [
    ("image_data_format", "channels_first"),
    ("floatx", "float16"),
    ("floatx", "bfloat16"),
    ("floatx", "float64"),
    ("epsilon", 0.1),
    ("dtype_policy", "mixed_bfloat16"),
    ("dtype_policy", "float64"),
    ("max_epochs", 1),
    ("max_steps_per_epoch", 1),
]


@contextlib.contextmanager
def keras_set_to(name, value):
    before = getattr(keras.config, name)()
    getattr(keras.config, f"set_{name}")(value)
    try:
        yield
    finally:
        getattr(keras.config, f"set_{name}")(before)


def network():
    image = keras.Input((28, 28, 1))
    x = layers.Conv2D(4, 3, strides=2, kernel_constraint="max_norm")(image)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.2)(layers.MaxPooling2D()(x))
    x = layers.Flatten()(layers.ReLU()(x))
    return keras.Model(image, layers.Dense(10)(x))


CASE = Recipe(
    name="case",
    dataset="fashion_mnist",
    network=network,
    transform=lambda: [layers.RandomFlip(), transforms.unit()],
    optimizer=lambda: keras.optimizers.Adam(0.01),
    batch_size=32,
    epochs=2,
    parameters=40 + 8 + 1450,
    course=Course(source="nowhere"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a short run; return the weights' hash and the epochs' records."""

    def train(engine):
        options = run_options.Overrides(
            data="sample", limit=96, engine=engine, out=tmp_path_factory.mktemp("run")
        )
        run = training_run.train(CASE, options)
        return run.result["weights_sha256"], [m["loss"] for m in run.metrics]

    expected = {engine: train(engine) for engine in ("epoch", "fit")}
    return train, expected


def test_every_setting_of_keras_is_held_or_known_to_be_harmless():
    settable = {
        name.removeprefix("set_")
        for name in dir(keras.config)
        if name.startswith("set_")
    }
    assert settable - set(settings.DEFAULTS) == {"backend"}  # what check_backend checks
    assert {name for name, _ in OTHERS} == set(settings.DEFAULTS)


@pytest.mark.parametrize(("name", "value"), OTHERS, ids=str)
@pytest.mark.parametrize(
    "case", ["fashion_padding", "cifar_skip_concat_12", "cifar_vgg_aug"]
)
def test_a_recipe_is_described_as_under_keras_s_defaults(case, name, value):
    found = recipe.load(case)
    expected = describe.describe(found)
    with keras_set_to(name, value):
        assert describe.describe(found) == expected
        model = without_weights(found.network)
    assert model.compute_dtype == "float32"
    recipe.check_parameters(found, model)


# All at once, since each training compiles for seconds.
MANY = [
    dict(OTHERS[:5]),
    {
        "floatx": "float16",
        "dtype_policy": "mixed_bfloat16",
        "max_epochs": 1,
        "max_steps_per_epoch": 1,
    },
]


@pytest.mark.parametrize("engine", ["epoch", "fit"])
@pytest.mark.parametrize("many", MANY, ids=["64 bits", "16 bits"])
@pytest.mark.slow
def test_a_run_trains_as_under_keras_s_defaults(trained, engine, many, capsys):
    train, expected = trained
    if keras.backend.backend() != "jax" and engine == "epoch":
        pytest.skip("the engine is JAX's")
    with contextlib.ExitStack() as stack:
        for name, value in many.items():
            stack.enter_context(keras_set_to(name, value))
        assert train(engine) == expected[engine]
        assert settings.others() == many
    (said,) = [x for x in capsys.readouterr().err.splitlines() if "do not hold" in x]
    assert all(f"{name}={value!r}" in said for name, value in many.items())


@pytest.mark.slow
def test_the_seeds_that_others_have_set_change_nothing(trained):
    train, expected = trained
    keras.utils.set_random_seed(7)
    keras.random.uniform((3,))
    assert train("epoch") == expected["epoch"]


def test_settings_come_back_after_an_error():
    def broken():
        raise ZeroDivisionError

    case = dataclasses.replace(CASE, network=broken)
    with keras_set_to("image_data_format", "channels_first"):
        with pytest.raises(ZeroDivisionError):
            case.network()
        assert keras.config.image_data_format() == "channels_first"


def test_what_a_recipe_sets_itself_holds():
    def bfloat16():
        keras.config.set_dtype_policy("bfloat16")
        return network()

    case = dataclasses.replace(CASE, network=bfloat16)
    assert case.network().layers[-1].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


def test_the_precision_that_is_asked_for_holds():
    with settings.keras_defaults("mixed_bfloat16"):
        assert CASE.network().layers[-1].compute_dtype == "bfloat16"
        assert without_weights(CASE.network).layers[1].compute_dtype == "bfloat16"
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("use", [training_run.train, card.show, build.network])
def test_another_number_of_parameters_is_refused(use, tmp_path):
    case = dataclasses.replace(CASE, parameters=1_611_626)
    options = run_options.Overrides(data="sample", limit=96, out=tmp_path)
    arguments = {
        training_run.train: (case, options),
        card.show: (case,),
        build.network: (case,),
    }
    with pytest.raises(
        UsageError, match=r"parameters=1_611_626, .* has 1_498: correct"
    ):
        use(*arguments[use])
    assert not list(tmp_path.iterdir())
    unstated = dataclasses.replace(CASE, parameters=0)
    build.network(unstated)


@pytest.mark.slow
def test_keras_json_changes_no_run(tmp_path):
    """A process that has one trains as this process does."""
    config = {"image_data_format": "channels_first", "floatx": "float64"}
    (tmp_path / "keras.json").write_text(json.dumps(config | {"epsilon": 0.1}))
    words = ["fashion_lenet", "--epochs", "1", "--limit", "128", "--data", "sample"]
    here, there = tmp_path / "here", tmp_path / "there"
    assert commands.main(["run", *words, "--out", str(here)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "kerascnn", "run", *words, "--out", str(there)],
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert Run(here).result["weights_sha256"] == Run(there).result["weights_sha256"]
    assert "image_data_format='channels_first'" in done.stderr


# What the commands that compute call in their processes.
COMPUTING = {
    "backends": lambda: backends.train("fashion_mlp", 2, 8),
    "parity": lambda: worker.result("fashion_mlp", True, None, 2),
    "bench": lambda: with_keras.build("kerascnn", "fashion_mlp", 8, 0, False)(1),
    "stock": lambda: with_keras.build("keras-jax", "fashion_mlp", 8, 0, False)(1),
    "operations": lambda: settings.computing()(lambda: keras.ops.ones(3) + 1)(),
}


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the settings are JAX's")
@pytest.mark.parametrize(
    "name",
    [
        "operations",
        "backends",
        "stock",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("parity", "bench")),
    ],
)
def test_whatever_computes_sets_aside_what_keras_cannot_compute_under(name, capsys):
    import jax

    if name == "parity":
        pytest.importorskip("torch")
    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    try:
        COMPUTING[name]()
        assert jax.config.jax_numpy_rank_promotion == "raise"
    finally:
        jax.config.update("jax_numpy_rank_promotion", before)
    said = "jax_numpy_rank_promotion is raise, and Keras needs allow: set aside here."
    assert said in capsys.readouterr().err


@pytest.mark.few("run")
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the devices are JAX's")
@pytest.mark.parametrize(
    "words",
    [
        ["kerascnn", "run", "fashion_mlp", "--data", "sample", "--limit", "64"],
        ["kerascnn.lessons.padding"],
        *(
            pytest.param(["kerascnn", *words], marks=pytest.mark.slow)
            for words in (
                ["learns", "fashion_mlp", "--data", "sample", "--steps", "1"],
                ["parity", "fashion_mlp", "--steps", "1"],
                ["bench", "thresholds"],
            )
        ),
    ],
    ids=lambda words: words[-1] if len(words) == 1 else words[1],
)
def test_a_device_that_is_not_there_is_a_line(words, tmp_path):
    if "parity" in words:
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "rocm", "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if "kerascnn: " in line]
    assert len(lines) == 1
    assert "JAX finds no device to compute on" in lines[0]
    assert "Traceback" not in done.stderr
