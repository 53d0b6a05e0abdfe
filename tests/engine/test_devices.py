"""Several devices train as one does, whatever the number of images in a batch."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import acceleration, transforms

if keras.backend.backend() != "jax":
    pytest.skip("devices are JAX's", allow_module_level=True)

import jax
import jax.numpy as jnp

from kerascnn.engine import placement

IMAGE = (8, 8, 3)
# Bits do not matter here, and XLA compiles faster.
ENVIRONMENT = {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
ENVIRONMENT |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

# BatchNorm, random crop, flip and Dropout; batches of 23, then one of 5: eight devices
# divide neither. Evaluated on 29 images.
PROGRAM = """
import json, sys
import kerascnn, keras, numpy as np
from keras import layers
from kerascnn import accelerate, recipe, transforms
from kerascnn.data import Split
from kerascnn.engine import epoch, fit, placement, remat
from kerascnn.engine.plan import Plan
from kerascnn.training import build

def network():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(image)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Activation("relu")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(10, kernel_regularizer="l2")(x))

RECIPE = recipe.Recipe(
    name="small", dataset="cifar10", network=network,
    transform=lambda: [
        transforms.RandomCrop(padding=2),
        layers.RandomFlip("horizontal"),
        transforms.unit(),
    ],
    optimizer=lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    batch_size=23, epochs=2, parameters=0, course=recipe.Course(source="lecture 4"),
)

def split(images):
    rng = np.random.default_rng(0)
    return Split(
        rng.integers(0, 256, (images, 8, 8, 3), np.uint8),
        rng.integers(0, 10, images, np.int32),
    )

class Logs(keras.callbacks.Callback):
    kept = []

    def on_epoch_end(self, epoch, logs=None):
        self.kept.append(logs)

def trained(devices, accumulate, fast, engine="epoch", again=False):
    build.set_seed(3)
    model, _ = build.build(RECIPE, (8, 8, 3))
    model = accelerate(model) if fast else model
    build.compile_model(model, RECIPE)
    logs = Logs()
    logs.kept = []
    plan = Plan(
        2, 23, 1, accumulate=accumulate, devices=devices, rematerialize=again
    )
    assert not again or len(remat.Forward(model).stretches) > 1
    mesh = placement.mesh(model, 23, devices)
    {"epoch": epoch, "fit": fit}[engine].fit(
        model, split(51), split(29), plan, [logs]
    )
    assert all(len(v.value.sharding.device_set) == 1 for v in model.variables)
    floats = [np.ravel(v) for v in model.weights if v.dtype == "float32"]
    weights = np.concatenate(floats).tolist()
    return dict(size=mesh.size if mesh else 1, logs=logs.kept, weights=weights)

print(json.dumps([trained(*each) for each in json.loads(sys.argv[1])]))
"""


def trained(*cases):
    """What a process of eight devices trains, each case with so many of them."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(cases)],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(found, expected):
    # Sums over the images in another order: seven digits, through six steps.
    np.testing.assert_allclose(
        found["weights"], expected["weights"], rtol=1e-4, atol=2e-6
    )
    for logs, own in zip(found["logs"], expected["logs"], strict=True):
        assert logs == pytest.approx(own, rel=2e-5)


def test_eight_devices_train_as_one():
    one, *eight = trained((1, 1, True), (8, 1, True), (8, 1, True, "fit"))
    assert [each["size"] for each in (one, *eight)] == [1, 8, 8]
    for each in eight:
        check(each, one)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fast", "accumulate"), [(True, 1), (False, 1), (True, 23), (False, 23)]
)
def test_any_number_of_devices_trains_as_one(fast, accumulate):
    numbers = (1, 2, 3, 5, 8)
    one, *others = trained(*((n, accumulate, fast) for n in numbers))
    for each in others:
        check(each, one)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["epoch", "fit"])
def test_activations_computed_again_leave_out_what_fills_a_batch_up(engine):
    one, three = trained((1, 1, True, engine), (3, 1, True, engine, True))
    check(three, one)


@pytest.mark.slow
@pytest.mark.parametrize("fast", [True, False])
def test_fit_trains_as_one_on_any_number_of_devices(fast):
    """Stock BatchNorm's batches are not filled up: one device takes all 23 images."""
    numbers = (1, 2, 3, 5, 8)
    one, *others = trained(*((n, 1, fast, "fit") for n in numbers))
    assert [each["size"] for each in others] == [n if fast else 1 for n in numbers[1:]]
    for each in others:
        check(each, one)


RANDOM = [
    *(acceleration.Dropout, layers.Dropout, layers.GaussianNoise),
    *(layers.RandomFlip, transforms.RandomCrop, transforms.RandomAlternatingFlip),
    *(transforms.RandomErasing, transforms.RandomRotation),
]


NAMES = ["fast Dropout", *(each.__name__ for each in RANDOM[1:])]


def test_all_layers_that_draw_are_among_those_tried():
    draws = {each for each in placement._FILLED_UP if "Random" in each.__name__}
    assert draws <= set(RANDOM)


@pytest.mark.parametrize("kind", RANDOM, ids=NAMES)
@pytest.mark.few("RandomFlip")
def test_what_is_drawn_of_an_image_does_not_depend_on_the_batch_s_size(kind):
    options = {"padding": 2} if kind is transforms.RandomCrop else {}
    options |= {"degrees": 20} if kind is transforms.RandomRotation else {}
    rate = {layers.GaussianNoise: {"stddev": 1.0}}
    options |= rate.get(kind, {"rate": 0.5} if "Dropout" in kind.__name__ else {})
    images = np.random.default_rng(0).integers(0, 256, (24, *IMAGE)).astype("float32")

    def drawn(number):
        layer = kind(seed=5, **options)
        return np.asarray(layer(jnp.asarray(images[:number]), training=True))

    whole = drawn(24)
    assert (whole != images).any()
    for number in (7, 23):
        np.testing.assert_array_equal(drawn(number), whole[:number])


@pytest.mark.parametrize("counted", [17, 3, 1])
@pytest.mark.parametrize("stock", [True, False])
@pytest.mark.few("True-17")
def test_batch_normalization_counts_images_that_are_there(counted, stock):
    """Value and gradients are those of stock Keras that sees these images alone."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(3, 2, (counted + 5, 4, 4, 6)), "float32")
    weights = jnp.asarray(rng.normal(0, 1, (counted, 4, 4, 6)), "float32")
    plain = layers.BatchNormalization(momentum=0.5)
    own = acceleration.BatchNormalization(momentum=0.5)
    for layer in (plain, own):
        layer.build(x.shape)
    some = jnp.arange(len(x)) < counted

    def loss(layer, x, some):
        state = [v.value for v in layer.non_trainable_variables]
        with acceleration.counted.only(some):
            y, new = layer.stateless_call(
                [v.value for v in layer.trainable_variables], state, x, training=True
            )
        return jnp.vdot(y[:counted], weights), (y[:counted], new)

    gradient = jax.value_and_grad(loss, 1, has_aux=True)
    (_, (y, new)), dx = gradient(plain, x[:counted], None)
    with acceleration.stock_operations() if stock else acceleration.counted.only(None):
        (_, (found, news)), dxs = gradient(own, x, some)
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dxs[:counted], dx, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(dxs[counted:], 0)
    for one, other in zip(news, new, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
