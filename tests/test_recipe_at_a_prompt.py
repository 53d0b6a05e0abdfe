"""A recipe whose functions have no source file is described all the same."""

import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys

import keras
import optax
import pytest

from kerascnn import UsageError, describe, optim, recipe, saved, transforms
from kerascnn.recipe import Course, Recipe
from kerascnn.training.options import Overrides
from kerascnn.training.run import train

TYPED = """
import keras
import optax
from keras import layers
from kerascnn import optim

def network(activation="relu"):
    image = keras.Input((8, 8, 1))
    x = layers.Flatten()(image)
    return keras.Model(image, layers.Dense(3, activation=activation)(x))

def activation(x, among=frozenset(["a", "b", "c"])):
    return x * 2 if "a" in {"a", "b"} else x

class Shift(layers.Layer):
    kind = "one"
    def call(self, x):
        return x + 1

class Decay(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        self.seen = [epoch for epoch in range(3)]

def shifted():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(Shift()(image))))

def optimizer():
    return optim.Optax(optax.adam(1e-3))

def schedule(epoch):
    return 0.1
"""


def typed(text=TYPED):
    space = {"__name__": "typed"}
    exec(text, space)
    return space


def made(**parts):
    given = {
        "network": typed()["network"],
        "optimizer": lambda: keras.optimizers.SGD(0.1),
        "transform": lambda: [transforms.unit()],
    }
    return Recipe(
        **(given | parts),
        name="typed",
        dataset="fashion_mnist",
        batch_size=2,
        epochs=1,
        parameters=0,
        course=Course(source="mine"),
    )


def parts_of(space):
    """Return, for each place of a function or class, the parts that have it there."""
    found = {
        "network": {"network": space["network"]},
        "activation": {"network": lambda: space["network"](space["activation"])},
        "layer": {"network": space["shifted"]},
        "partial": {"network": functools.partial(space["network"], "relu")},
        "callback": {"callbacks": lambda: [space["Decay"]()]},
        "schedule": {
            "callbacks": lambda: [
                keras.callbacks.LearningRateScheduler(space["schedule"])
            ]
        },
    }
    if keras.backend.backend() == "jax":
        optimizer = functools.partial(optim.Optax, optax.adam(1e-3))
        found["optimizer"] = {"optimizer": space["optimizer"]}
        found["partial_optimizer"] = {"optimizer": optimizer}
    return found


PLACES = sorted(parts_of(typed()))


@pytest.mark.parametrize("place", PLACES)
def test_two_of_one_text_have_one_fingerprint(place):
    first, second = (
        describe.describe(made(**parts_of(typed(text))[place]))
        for text in (TYPED, "\n\n" + TYPED)
    )
    assert describe.fingerprint(first) == describe.fingerprint(second)


def test_such_a_recipe_says_nothing_of_its_idea():
    for place in ("network", "partial"):
        assert made(**parts_of(typed())[place]).idea == ""


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("activation", "x * 2", "x * 3"),
        ("activation", '"c"', '"d"'),
        ("layer", "x + 1", "x - 1"),
        ("layer", '"one"', '"two"'),
        ("callback", "range(3)", "range(4)"),
        ("schedule", "0.1", "0.2"),
        ("optimizer", "1e-3", "1e-4"),
        ("optimizer", "optax.adam(", "optax.sgd("),
    ],
)
def test_another_text_has_another_fingerprint(place, old, new):
    if place not in PLACES:
        pytest.skip("optax is JAX's")
    assert TYPED.count(old) == 1
    descriptions = [
        describe.describe(made(**parts_of(typed(text))[place]))
        for text in (TYPED, TYPED.replace(old, new))
    ]
    assert describe.fingerprint(descriptions[0]) != describe.fingerprint(
        descriptions[1]
    )


def test_partials_with_other_values_have_other_fingerprints():
    if keras.backend.backend() != "jax":
        pytest.skip("optax is JAX's")
    found = {
        describe.fingerprint(
            describe.describe(
                made(optimizer=functools.partial(optim.Optax, optax.adam(rate)))
            )
        )
        for rate in (1e-3, 1e-4)
    }
    assert len(found) == 2


@pytest.mark.slow
def test_another_process_finds_the_same():
    program = (
        f"{TYPED}\nfrom kerascnn import describe; print(describe._source(activation))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_a_lambda_that_keras_cannot_save_is_a_users_mistake():
    # Not "<string>": Python 3.13 takes the text of `python -c`, by which the tests'
    # processes are started, for the text of that name.
    scaled = eval(compile("lambda x: x * 2", "<prompt>", "eval"))
    space = typed() | {"scaled": scaled}
    case = made(network=lambda: space["network"](space["scaled"]))
    with pytest.raises(UsageError, match="a lambda in typed's network"):
        describe.describe(case)


def test_functions_that_hold_themselves_have_an_end():
    space = typed(
        "def outer():\n"
        "    def inner(x):\n"
        "        return inner(x)\n"
        "    return inner\n"
        "class Own:\n"
        "    def get(self):\n"
        "        return __class__\n"
        "Own.other = Own\n"
        "inner = outer()\n"
    )
    for thing in (space["inner"], space["Own"], space["Own"]().get):
        assert "SHA-256" in json.dumps(describe._source(thing))


def sequential():
    return keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )


def test_a_sequential_network_is_its_functional_one():
    def functional():
        image = keras.Input((28, 28, 1))
        return keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))

    one, other = (describe.describe(made(network=n)) for n in (sequential, functional))
    assert one == other
    # A recipe that is made of another has its network.
    again = dataclasses.replace(made(network=sequential), epochs=2)
    assert describe.describe(again)["network"] == one["network"]


def test_a_sequential_network_trains(tmp_path):
    options = Overrides(data="sample", limit=64, out=tmp_path / "run")
    run = train(made(network=sequential), options)
    assert saved.load_model(tmp_path / "run" / "model.keras").count_params() == 7850
    assert run.result["finished"]


class Own(keras.Model):
    def call(self, images):
        return images


def from_image(end):
    image = keras.Input((28, 28, 1))
    return keras.Model(image, end(image))


WRONG = {
    "begin it with keras.Input": lambda: keras.Sequential([keras.layers.Dense(10)]),
    "a Own: give": Own,
    "ended by softmax": lambda: from_image(
        lambda x: keras.layers.Softmax()(keras.layers.Flatten()(x))
    ),
    "ended by sigmoid": lambda: from_image(
        lambda x: keras.layers.Dense(10, "sigmoid")(keras.layers.Flatten()(x))
    ),
    r"to \(None, 26, 26, 10\)": lambda: from_image(keras.layers.Conv2D(10, 3)),
    "from 1 input to .*, ": lambda: from_image(
        lambda x: [keras.layers.Flatten()(x), keras.layers.Flatten()(x)]
    ),
    "from 2 inputs to ": lambda: keras.Model(
        images := [keras.Input((4,)), keras.Input((4,))], keras.layers.Add()(images)
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_network_that_can_not_be_trained_is_a_users_mistake(message, tmp_path):
    options = Overrides(data="sample", limit=64, out=tmp_path / "run")
    case = made(network=WRONG[message])
    for use in (describe.describe, lambda case: train(case, options)):
        with pytest.raises(UsageError, match=f"^typed's network is .*{message}"):
            use(case)


def test_the_command_of_a_users_file_is_its_path(tmp_path, monkeypatch):
    assert made().command == "python -m kerascnn.recipes.typed"  # no file is known
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_of_a_test.py").write_text(TYPED)
    network = importlib.import_module("mine_of_a_test").network
    assert (
        made(network=network).command
        == f"kerascnn run {tmp_path / 'mine_of_a_test.py'}"
    )
    for name in ("fashion_mlp", "cifar_vgg_aug"):
        assert recipe.load(name).command == f"python -m kerascnn.recipes.{name}"
