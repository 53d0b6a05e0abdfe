"""A batch on several devices of one CPU: what is cut, and that nothing changes."""

import dataclasses
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import test_engines
from keras import layers

from kerascnn import UsageError, accelerate, acceleration
from kerascnn.acceleration import winograd
from kerascnn.data import Split
from kerascnn.engine import counts
from kerascnn.engine.plan import Plan
from kerascnn.process import cores
from kerascnn.training import build

if keras.backend.backend() != "jax":
    pytest.skip("devices are JAX's", allow_module_level=True)

import jax

from kerascnn.engine import epoch as epoch_module
from kerascnn.engine import finite, footprint, placement, views


def network() -> keras.Model:
    """Convolutions of each kind, direct, in tiles, strided; pooling; statistics."""
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(image)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.Conv2D(16, 3, strides=2, activation="silu")(x)
    x = layers.Dropout(0.3)(x)
    x = layers.Flatten()(x)
    return keras.Model(image, layers.Dense(10)(x))


RECIPE = dataclasses.replace(
    test_engines.RECIPE,
    network=network,
    optimizer=lambda: keras.optimizers.SGD(0.01, momentum=0.9),
)


def split(images: int) -> Split:
    rng = np.random.default_rng(0)
    return Split(
        rng.integers(0, 256, (images, 16, 16, 3), np.uint8),
        rng.integers(0, 10, images, np.int32),
    )


def compiled() -> keras.Model:
    build.set_seed(3)
    model, _ = build.build(RECIPE, (16, 16, 3))
    model = accelerate(model)
    build.compile_model(model, RECIPE)
    return model


@pytest.fixture
def cut(monkeypatch):
    """Have every network's batches cut."""
    monkeypatch.setattr(placement, "WORTH", 0)


class Logs(keras.callbacks.Callback):
    """Keep each epoch's logs."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_epoch_end(self, epoch, logs=None):
        self.kept.append(logs)


def trained(begun: int = 0, model: keras.Model | None = None):
    # Batches of 20, then one of 7, which is filled up; 33 for evaluation.
    model, logs = model or compiled(), Logs()
    plan = Plan(epochs=begun + 1, batch_size=20, seed=1, initial_epoch=begun)
    epoch_module.fit(model, split(87), split(33), plan, [logs])
    return model, logs.kept[-1]


@pytest.mark.slow
def test_one_device_and_two_train_the_same(cut, monkeypatch):
    two, logs = trained()
    monkeypatch.setattr(placement, "WORTH", np.inf)
    one, expected = trained()
    # Sums of 20 images in another order: seven digits, through five steps.
    for a, b in zip(two.variables, one.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=a.path)
    assert logs == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_a_small_last_batch_runs_the_stock_operations(cut, monkeypatch):
    images = []
    convolution = acceleration.convolution._convolution
    monkeypatch.setattr(
        acceleration.convolution,
        "_convolution",
        lambda x, *others: images.append(len(x)) or convolution(x, *others),
    )
    fast, expected = trained()
    assert {10, 4} <= set(images)  # of 20 and 7, a device's half
    images.clear()
    monkeypatch.setattr(epoch_module, "PARTIAL", 1 / 10)  # more than 7 of 87
    stock, logs = trained()
    assert 10 in images
    assert 4 not in images
    for _ in range(2):
        for a, b in zip(stock.variables, fast.variables, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=a.path)
        assert logs == pytest.approx(expected, rel=1e-4)
        _, logs = trained(1, stock)
        with monkeypatch.context() as patch:
            patch.setattr(epoch_module, "PARTIAL", 0)
            _, expected = trained(1, fast)


@pytest.mark.slow
def test_the_weights_are_one_device_s_afterwards_and_train_on(cut):
    model, _ = trained()
    assert {len(v.value.sharding.device_set) for v in model.variables} == {1}
    # As they must be for Keras's own functions, and for a second epoch by itself.
    assert model.predict(split(5).images, verbose=0).shape == (5, 10)
    trained(1, model)
    plan = Plan(epochs=2, batch_size=20, seed=1)
    whole = compiled()
    epoch_module.fit(whole, split(87), split(33), plan)
    for a, b in zip(model.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


def test_devices_exchange_only_what_is_of_all_images(cut):
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    mesh = placement.mesh(model, 20)
    assert mesh is not None
    data = split(20)
    text = (
        epoch_module.training_function(model, mesh)
        .function.lower(
            placement.copied(mesh, epoch_module.read_state(model)),
            *placement.copied(mesh, (data.images, data.labels)),
            placement.cut(mesh, np.arange(20, dtype=np.int32)[None]),
        )
        .compile()
        .as_text()
    )
    exchanges = re.findall(
        r"= (.+) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", text
    )
    # BatchNorm's mean and variance forward; its two sums, gradients and metrics back.
    kinds = [kind for _, kind in exchanges]
    assert sorted(kinds) == ["all-gather", "all-reduce", "all-reduce"]
    gathered = next(shape for shape, kind in exchanges if kind == "all-gather")
    assert gathered.startswith("f32[2,2,16]")
    # Each convolution is that of ten images: none is computed twice.
    assert "f32[10,16,16,16]" in text
    assert "f32[20,16,16,16]" not in text


@pytest.mark.slow
def test_other_computations_fill_a_batch_up_too(cut):
    model, images = compiled(), split(33).images
    # Batches of 7 and one of 5, on two devices.
    found, number = views.mean_logits(model, [images, images], 7, epoch_module)
    assert number == 2
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert footprint.footprint(model, (split(21),), 21, "off").devices == 2


def test_more_devices_than_there_are_is_a_line():
    model = compiled()
    assert placement.mesh(model, 20, 1) is None
    assert placement.mesh(model, 20, 2).size == 2  # however small the network is
    with pytest.raises(UsageError, match="--devices 9: there are 2 here"):
        placement.mesh(model, 20, 9)


def test_small_networks_stay_on_one_device(monkeypatch):
    model = compiled()
    # 16 x 16 x 16 x 27, 8 x 8 x 16 x 144 twice, 3 x 3 x 16 x 144 and 144 x 10.
    assert counts.multiplications(model) == [110592, 147456, 147456, 20736, 1440]
    assert placement.mesh(model, 2000) is None
    assert placement.mesh(model, 4000).shape == {"batch": 2}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert placement.mesh(model, 20).shape == {"batch": 2}  # GPUs share every batch


def test_as_many_devices_as_shorten_a_step(cut, monkeypatch):
    model = compiled()
    monkeypatch.setattr(jax, "devices", lambda: [*range(4)])
    monkeypatch.setattr(placement, "Mesh", lambda chosen, *_, **__: chosen)
    assert placement.mesh(model, 1) is None
    assert [len(placement.mesh(model, n)) for n in (6, 7, 8, 9)] == [3, 4, 4, 3]
    # A layer that may look at several images: as many as divide the batch.
    strange = accelerate(singly(last=[layers.Lambda(own_activation)]))
    assert [placement.mesh(strange, n) is None for n in (1, 7)] == [True, True]
    assert [len(placement.mesh(strange, n)) for n in (6, 8, 9)] == [3, 4, 3]


def singly(*, last=(), **convolution) -> keras.Model:
    """Images each for itself, through more numbers than there are weights."""
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(16, 3, padding="same", kernel_regularizer="l2")(x)
    x = layers.Activation("relu")(x)
    x = layers.Conv2D(
        **{"filters": 16, "kernel_size": 3, "activation": "silu", **convolution}
    )(x)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(layers.MaxPooling2D()(x))
    for layer in last:
        x = layer(x)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def parts(model: keras.Model, images: int = 16) -> int:
    mesh = placement.mesh(model, images)
    with placement.tracing(mesh):
        return len(placement.in_parts(mesh, model, jax.numpy.arange(images)).indices)


def training(model: keras.Model, images: int):
    """A compiled training step of a model, and what it takes."""
    model.compile(keras.optimizers.SGD(0.05))
    model.optimizer.build(model.trainable_variables)
    finite.index(model.optimizer)
    mesh, data = placement.mesh(model, images), split(images)
    arguments = (
        placement.copied(mesh, epoch_module.read_state(model)),
        *placement.copied(mesh, (data.images, data.labels)),
        placement.cut(mesh, np.arange(images, dtype=np.int32)[None]),
    )
    function = epoch_module.training_function(model, mesh).function
    return function.lower(*arguments).compile(), arguments


@pytest.mark.slow
def test_a_batch_s_gradient_in_parts_is_that_of_the_whole(cut, monkeypatch):
    """Of stock Keras, which takes the batch at once."""
    model, data = singly(), split(48)
    monkeypatch.setattr(placement, "AT_ONCE", 200_000)
    assert parts(accelerate(model), 48) == 4
    step, (state, *others) = training(accelerate(model), 48)

    def loss(weights):
        logits, _, penalties = model.stateless_call(
            weights, [], data.images, training=True, return_losses=True
        )
        entropy = keras.ops.sparse_categorical_crossentropy(
            data.labels, logits, from_logits=True
        )
        return entropy.mean() + sum(penalties)

    # Copies: the step takes the variables' own arrays.
    weights = [v.value.copy() for v in model.trainable_variables]
    expected, gradients = jax.value_and_grad(loss)(weights)
    state = step(state, *others)
    for new, old, gradient in zip(state["weights"], weights, gradients, strict=True):
        # Another order of adding: seven digits of numbers up to 1.
        np.testing.assert_allclose(new, old - 0.05 * gradient, rtol=0, atol=2e-7)
    assert float(state["sums"]["loss"]) == pytest.approx(48 * float(expected), rel=1e-6)
    assert float(state["sums"]["images"]) == 48


@pytest.mark.slow
def test_a_step_in_parts_takes_the_memory_of_a_part(cut, monkeypatch):
    """And of the gradients' sums, but keeps no kernel's transform between parts."""
    monkeypatch.setattr(placement, "_is_computed_singly", lambda model: parted)

    def bytes_of(images):
        step, _ = training(accelerate(singly(kernel_size=7)), images)
        return step.memory_analysis().temp_size_in_bytes

    parted = False
    part = bytes_of(64)
    parted = True
    gradients = 4 * singly(kernel_size=7).count_params()
    # Beside those of a part, the sums until now and the next.
    assert bytes_of(128) < part + 2 * gradients


@pytest.mark.slow
def test_a_large_kernel_s_gradient_is_done_before_the_images(cut, monkeypatch):
    """Whole, not one of its pieces alone: each has a sum of its own, as large."""
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(64, 3, activation="relu")(image)
    x = layers.Conv2D(128, 7, activation="relu")(x)
    model = keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))

    def bytes_of():
        jax.clear_caches()  # the fast operations' own traces, made before a patch
        step, _ = training(accelerate(model), 62)
        return step.memory_analysis().temp_size_in_bytes

    whole, store = bytes_of(), winograd.stored_on_cpu
    monkeypatch.setattr(
        winograd,
        "stored_on_cpu",
        lambda x, other=None: x if x.shape[:2] == (7, 7) else store(x, other),
    )
    # By how much depends on XLA's order: by up to two pieces of 1.6 MB.
    assert whole < bytes_of()
    jax.clear_caches()


def test_each_device_s_parts_are_of_its_own_images(cut, monkeypatch):
    monkeypatch.setattr(placement, "_is_computed_singly", lambda model: True)
    monkeypatch.setattr(counts, "results", lambda model: [10**6])
    model = compiled()
    found = placement.in_parts(placement.mesh(model, 8), model, np.arange(8))
    np.testing.assert_array_equal(found.indices, [[0, 1, 4, 5], [2, 3, 6, 7]])


def test_parts_as_many_as_pay(cut, monkeypatch):
    model = accelerate(singly())
    # 16 x 16 x 16, 14 x 14 x 16, 3 x 3 x 16 and 10.
    assert counts.results(model) == [4096, 3136, 144, 10]
    # A part is to keep at least twice as many numbers as there are weights.
    assert model.count_params() == 6538
    assert [parts(model, 2 * n) for n in (1, 2, 3, 4, 6, 8)] == [1, 1, 1, 2, 2, 2]
    monkeypatch.setattr(placement, "AT_ONCE", 4 * 7386 * 2)
    assert [parts(model, 2 * n) for n in (2, 4, 6, 8, 12, 16)] == [1, 2, 2, 4, 4, 8]
    assert len(placement.in_parts(None, model, np.arange(16)).indices) == 1
    mesh = placement.mesh(model, 16)
    alone = placement.in_parts(mesh, model, np.arange(15))  # each computes all
    assert len(alone.indices) == 1


def own_activation(x):
    return x - keras.ops.mean(x, 0)


class Centred(keras.Model):
    """Images minus their mean."""

    def call(self, x):
        return own_activation(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: singly(last=[Centred()]),
        lambda: singly(last=[layers.BatchNormalization()]),
        lambda: singly(last=[layers.Dropout(0.5)]),
        lambda: singly(last=[layers.Lambda(own_activation)]),
        lambda: singly(last=[own_activation]),
        lambda: singly(activation=own_activation),
        lambda: singly(activity_regularizer="l2"),
    ],
)
def test_batches_are_not_parted_whose_images_depend_on_others(cut, make):
    assert parts(accelerate(singly())) == 2
    assert parts(accelerate(make())) == 1


@pytest.mark.parametrize(
    "slow",
    [
        {"dilation_rate": 2},
        {"groups": 2},
        {"dtype": "mixed_bfloat16"},
        {"data_format": "channels_first", "padding": "same"},
    ],
)
def test_batches_are_not_parted_for_slow_loops(cut, slow):
    assert parts(accelerate(singly(**slow))) == 1
    assert parts(singly()) == 1
    with acceleration.stock_operations():
        assert parts(accelerate(singly())) == 1


def test_batches_are_not_parted_for_half_precision(cut):
    half = layers.Dense(4, dtype="float16")
    assert parts(accelerate(singly(last=[layers.Dense(4)]))) == 2
    assert parts(accelerate(singly(last=[half]))) == 1


def test_images_are_not_copied_where_xla_takes_their_place(cut):
    room = np.zeros(2**20 + 64, np.uint8)
    images = room[-room.ctypes.data % 64 :][: 2**20]
    mesh = placement.mesh(compiled(), 20)
    for device in placement.copied(mesh, images).addressable_shards:
        assert device.data.unsafe_buffer_pointer() == images.ctypes.data


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("cores.as_devices(); import jax", min(cores.available(), 4)),
        ("import jax; cores.as_devices()", min(cores.available(), 4)),
        ("os.environ['JAX_NUM_CPU_DEVICES'] = '3'; cores.as_devices()", 3),
    ],
)
def test_a_program_takes_its_cores_for_devices(code, expected):
    without = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            f"import os; from kerascnn.process import cores; {code}; "
            "import jax; print(jax.device_count())",
        ],
        env=without | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == expected
