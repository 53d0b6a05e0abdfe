"""Make one of the classic mistakes in a recipe and its network."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError
from kerascnn.parity.mistakes import MISTAKES
from kerascnn.recipe import Recipe


def check(mistake: str, recipe: Recipe, network: keras.Model) -> None:
    """Raise `UsageError` unless a recipe has what a mistake is made of."""
    _, needs = MISTAKES[mistake]
    layers = network.layers
    has = {
        "bn_eps": lambda: _norms(network),
        "bn_momentum": lambda: _norms(network),
        "bn_variance": lambda: _norms(network),
        "adam_eps": lambda: isinstance(recipe.optimizer(), keras.optimizers.Adam),
        "l2_half": lambda: [x for x in layers if _penalty(x)],
        "flatten_order": lambda: [
            x
            for x in layers
            if isinstance(x, keras.layers.Flatten)
            # One channel, or one pixel, has no order.
            and np.prod(x.input.shape[1:3]) > 1
            and x.input.shape[3] > 1
            and x is not layers[-1]
        ],
        "stride_same": lambda: _strided_paddings(network),
        "he_truncated": lambda: [x for x in layers if _is_he_normal(x)],
        "decay_per_step": recipe.callbacks,
        "crop_per_batch": lambda: [
            x for x in recipe.transform() if type(x).__name__ == "RandomCrop"
        ],
    }
    if mistake in has and not has[mistake]():
        raise UsageError(
            f"--break {mistake} needs {needs}, and {recipe.name} has none."
        )


def broken_network(mistake: str | None, network: keras.Model) -> keras.Model:
    """Make a mistake in a network that was just built; returns the network."""
    for layer in network.layers:
        if mistake == "bn_eps" and isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-3
        elif mistake == "bn_momentum" and isinstance(
            layer, keras.layers.BatchNormalization
        ):
            layer.momentum = 0.99
        elif mistake == "l2_half" and _penalty(layer):
            layer.kernel.regularizer = keras.regularizers.L2(2 * _penalty(layer))
        elif mistake == "he_truncated" and _is_he_normal(layer):
            layer.kernel.assign(keras.initializers.HeNormal()(layer.kernel.shape))
    if mistake == "stride_same":
        for layer in _strided_paddings(network):
            layer.padding = ((0, 1), (0, 1))
    return network


def broken_recipe(mistake: str | None, recipe: Recipe) -> Recipe:
    """Return a recipe with a mistake in what is around its network."""
    if mistake == "adam_eps":
        rate = float(keras.ops.convert_to_numpy(recipe.optimizer().learning_rate))
        return dataclasses.replace(
            recipe, optimizer=lambda: keras.optimizers.Adam(rate)
        )
    if mistake == "drop_last":
        return dataclasses.replace(recipe, drop_last=not recipe.drop_last)
    if mistake == "decay_per_step":
        return dataclasses.replace(
            recipe, callbacks=lambda: [EveryStep(x) for x in recipe.callbacks()]
        )
    if mistake == "crop_per_batch":
        return dataclasses.replace(
            recipe,
            transform=lambda: [
                draw_once(x) if type(x).__name__ == "RandomCrop" else x
                for x in recipe.transform()
            ],
        )
    return recipe


class EveryStep(keras.callbacks.Callback):
    """Take every step for an epoch of another callback."""

    def __init__(self, callback: keras.callbacks.Callback):
        super().__init__()
        self.callback = callback
        self.steps = 0

    def set_model(self, model: Any) -> None:
        self.callback.set_model(model)

    def on_train_begin(self, logs: Any = None) -> None:
        self.callback.on_train_begin(logs)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.callback.on_epoch_begin(self.steps, logs)
        self.steps += 1


def draw_once(layer: Any) -> keras.layers.Layer:
    """Let a random transform give all images of a batch the first one's draw."""
    draw, ops = layer.draw, keras.ops

    def first(shape: Any) -> Any:
        drawn = draw(shape)
        return ops.broadcast_to(drawn[:1], ops.shape(drawn))

    layer.draw = first
    return layer


def _norms(network: keras.Model) -> list[keras.layers.Layer]:
    norm = keras.layers.BatchNormalization
    return [layer for layer in network.layers if isinstance(layer, norm)]


def _penalty(layer: keras.layers.Layer) -> float:
    regularizer = getattr(layer, "kernel_regularizer", None)
    return float(regularizer.l2) if regularizer else 0.0


def _is_he_normal(layer: keras.layers.Layer) -> bool:
    start = getattr(layer, "kernel_initializer", None)
    return getattr(start, "distribution", None) == "untruncated_normal"


def _strided_paddings(network: keras.Model) -> list[keras.layers.ZeroPadding2D]:
    """Return the padding layers that a convolution of stride 2 follows."""
    found = []
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.strides == (2, 2):
            before = layer.input._keras_history.operation
            if isinstance(before, keras.layers.ZeroPadding2D):
                found.append(before)
    return found
