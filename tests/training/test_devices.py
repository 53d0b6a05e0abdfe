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

from kerascnn import accelerate, acceleration, cores
from kerascnn.data import Split
from kerascnn.training import models, trainer
from kerascnn.training.plan import Plan

if keras.backend.backend() != "jax":
    pytest.skip("devices are JAX's", allow_module_level=True)

import jax

from kerascnn.training import devices, epoch


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
    trainer.set_seed(3)
    model, _ = models.build(RECIPE, (16, 16, 3))
    model = accelerate(model)
    trainer.compile_model(model, RECIPE)
    return model


@pytest.fixture
def cut(monkeypatch):
    """Have every network's batches cut."""
    monkeypatch.setattr(devices, "WORTH", 0)


class Logs(keras.callbacks.Callback):
    """Keep each epoch's logs."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def on_epoch_end(self, epoch, logs=None):
        self.kept.append(logs)


def trained(begun: int = 0, model: keras.Model | None = None):
    # Batches of 20, then one of 7, which two devices can't share; 33 for evaluation.
    model, logs = model or compiled(), Logs()
    plan = Plan(epochs=begun + 1, batch_size=20, seed=1, initial_epoch=begun)
    epoch.fit(model, split(87), split(33), plan, [logs])
    return model, logs.kept[-1]


def test_one_device_and_two_train_the_same(cut, monkeypatch):
    two, logs = trained()
    monkeypatch.setattr(devices, "WORTH", np.inf)
    one, expected = trained()
    # Sums of 20 images in another order: seven digits, through five steps.
    for a, b in zip(two.variables, one.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=a.path)
    assert logs == pytest.approx(expected, rel=1e-4)


def test_a_small_last_batch_runs_the_stock_operations(cut, monkeypatch):
    images = []
    convolution = acceleration._finished_convolution
    monkeypatch.setattr(
        acceleration,
        "_finished_convolution",
        lambda x, *others: images.append(len(x)) or convolution(x, *others),
    )
    fast, expected = trained()
    assert {10, 7} <= set(images)  # of 20, a device's half
    images.clear()
    monkeypatch.setattr(epoch, "SELDOM", 1 / 10)  # more than 7 of 87
    stock, logs = trained()
    assert 10 in images
    assert 7 not in images
    for a, b in zip(stock.variables, fast.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=a.path)
    assert logs == pytest.approx(expected, rel=1e-4)


def test_the_weights_are_one_device_s_afterwards_and_train_on(cut):
    model, _ = trained()
    assert {len(v.value.sharding.device_set) for v in model.variables} == {1}
    # As they must be for Keras's own functions, and for a second epoch by itself.
    assert model.predict(split(5).images, verbose=0).shape == (5, 10)
    trained(1, model)
    plan = Plan(epochs=2, batch_size=20, seed=1)
    whole = compiled()
    epoch.fit(whole, split(87), split(33), plan)
    for a, b in zip(model.variables, whole.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)


def test_devices_exchange_only_what_is_of_all_images(cut):
    model = compiled()
    model.optimizer.build(model.trainable_variables)
    mesh = devices.mesh(model, 20)
    assert mesh is not None
    data = split(20)
    text = (
        epoch.training_function(model, mesh)
        .function.lower(
            devices.copied(mesh, epoch.read_state(model)),
            *devices.copied(mesh, (data.images, data.labels)),
            devices.cut(mesh, np.arange(20, dtype=np.int32)[None]),
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


def test_small_networks_stay_on_one_device(monkeypatch):
    model = compiled()
    # 16 x 16 x 16 x 27, 8 x 8 x 16 x 144 twice, 3 x 3 x 16 x 144 and 144 x 10.
    assert models.multiplications(model) == [110592, 147456, 147456, 20736, 1440]
    assert devices.mesh(model, 2000) is None
    assert devices.mesh(model, 4000).shape == {"batch": 2}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert devices.mesh(model, 4000) is None


def test_as_many_devices_as_divide_a_batch(cut, monkeypatch):
    model = compiled()
    assert devices.mesh(model, 21) is None
    monkeypatch.setattr(jax, "devices", lambda: [*range(4)])
    monkeypatch.setattr(devices, "Mesh", lambda chosen, *_, **__: chosen)
    assert [devices.mesh(model, n) is None for n in (1, 7)] == [True, True]
    assert [len(devices.mesh(model, n)) for n in (6, 8, 9)] == [3, 4, 3]


def test_images_are_not_copied_where_xla_takes_their_place(cut):
    room = np.zeros(2**20 + 64, np.uint8)
    images = room[-room.ctypes.data % 64 :][: 2**20]
    mesh = devices.mesh(compiled(), 20)
    for device in devices.copied(mesh, images).addressable_shards:
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
            f"import os; from kerascnn import cores; {code}; "
            "import jax; print(jax.device_count())",
        ],
        env=without | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == expected
