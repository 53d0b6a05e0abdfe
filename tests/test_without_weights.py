"""Networks without weights have shapes and settings, and leave nothing behind."""

import keras
import pytest
from keras import layers

from kerascnn.without_weights import without_weights


def network(units=3):
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(2, 3)(image)
    return keras.Model(image, layers.Dense(units)(layers.Flatten()(x)))


def draw_what_waits():
    """Do what Keras does at the start of a training, among others."""
    with keras.StatelessScope():
        pass


def test_shapes_and_names_are_those_of_the_network_with_weights():
    model = without_weights(network)
    keras.utils.clear_session()
    whole = network()
    assert [(each.path, each.shape) for each in model.weights] == [
        (each.path, each.shape) for each in whole.weights
    ]
    assert model.get_config() == whole.get_config()


def test_what_no_memory_holds_is_never_drawn():
    model = without_weights(lambda: network(10**12))
    assert model.count_params() > 10**13
    draw_what_waits()


def test_nothing_is_drawn_later(monkeypatch):
    drawn = []
    call = keras.initializers.GlorotUniform.__call__

    def noted(self, shape, dtype=None):
        drawn.append(shape)
        return call(self, shape, dtype)

    monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", noted)
    without_weights(network)
    draw_what_waits()
    assert drawn == []


def test_the_data_type_policy_holds():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = without_weights(network)
    finally:
        keras.config.set_dtype_policy(before)
    assert model.output.dtype == "bfloat16"


def test_errors_come_through():
    with pytest.raises(ZeroDivisionError):
        without_weights(lambda: 1 / 0)
