"""A run that will take minutes says so, and how large it is, before it trains."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

from kerascnn import api, recipe
from kerascnn.data import Split
from kerascnn.engine.plan import Plan
from kerascnn.process import estimate
from kerascnn.training import forecast
from kerascnn.training import options as run_options


def model():
    """A convolution of 192 weights, used at 31 times 29 places, and a dense layer."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(8, (2, 4), padding="valid")(image)
    x = layers.MaxPooling2D(3)(x)
    return keras.Model(image, layers.Dense(10)(layers.Flatten()(x)))


def split(images):
    return Split(np.zeros((images, 32, 32, 3), "uint8"), np.zeros(images, "int32"))


PLAN = Plan(epochs=10, batch_size=64, seed=0)


@pytest.fixture
def speed(monkeypatch):
    def of(operations_a_second):
        monkeypatch.setattr(estimate, "matmul_peak", lambda **_: operations_a_second)
        monkeypatch.setattr(forecast, "_LITTLE", 0)

    return of


def test_time_and_memory_are_those_counted_by_hand(speed):
    convolution, dense = 31 * 29 * 192, 10 * 9 * 8 * 10
    operations = 2 * (2 * convolution + 3 * dense)  # no gradient of the images
    speed(operations * 1000 / 90)  # 1,000 images in a minute and a half
    parameters = 192 + 8 + 10 * 9 * 8 * 10 + 10
    results = 31 * 29 * 8 + 10
    numbers = 4 * parameters + 2 * 64 * results
    memory = forecast._PROCESS + 4 * numbers + 1200 * 32 * 32 * 3
    assert forecast.line("mine", model(), PLAN, split(1000), split(200)) == (
        f"mine is large: {parameters:,} parameters; by an estimate, 1 min 30 s an "
        f"epoch, 15 min 0 s for all 10, and {memory / 1e9:.1f} GB of memory."
    )


@pytest.mark.parametrize(("epochs", "told"), [(1, False), (10, True)])
def test_a_run_of_few_minutes_is_not_told(speed, epochs, told):
    convolution, dense = 31 * 29 * 192, 10 * 9 * 8 * 10
    speed(2 * (2 * convolution + 3 * dense) * 1000 / 90)
    plan = dataclasses.replace(PLAN, epochs=epochs)
    line = forecast.line("mine", model(), plan, split(1000), split(200))
    assert (line is not None) == told


def test_what_is_left_of_a_run_counts(speed):
    convolution, dense = 31 * 29 * 192, 10 * 9 * 8 * 10
    speed(2 * (2 * convolution + 3 * dense) * 1000 / 90)
    plan = dataclasses.replace(PLAN, initial_epoch=7)
    line = forecast.line("mine", model(), plan, split(1000), split(200))
    assert "4 min 30 s for all 3" in line


def test_a_small_run_measures_nothing(monkeypatch):
    monkeypatch.setattr(estimate, "matmul_peak", lambda **_: pytest.fail("measured"))
    assert forecast.line("mine", model(), PLAN, split(1000), split(200)) is None


def test_images_of_any_size_have_no_forecast(speed):
    speed(1.0)
    image = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    any_size = keras.Model(image, layers.Dense(10)(x))
    assert forecast.line("mine", any_size, PLAN, split(10), split(10)) is None


def test_a_run_tells_before_its_first_epoch(speed, tmp_path, capsys):
    speed(1.0)
    mlp = recipe.load("fashion_mlp")
    options = run_options.Overrides(
        data="sample", limit=64, epochs=1, out=tmp_path / "run"
    )
    api.completed(mlp, options)
    lines = capsys.readouterr().out.splitlines()
    (at,) = (i for i, line in enumerate(lines) if "fashion_mlp is large: " in line)
    assert at < next(i for i, line in enumerate(lines) if line.startswith("epoch 1/1"))
    assert f"{mlp.parameters:,} parameters" in lines[at]


@pytest.mark.parametrize("quick", [False, True])
def test_the_speed_of_a_matrix_product_is_measured(quick):
    assert 1e8 < estimate.matmul_peak(turns=1, quick=quick) < 1e16
