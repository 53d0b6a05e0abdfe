"""A recipe's two models, with shared weights: one to train, one to keep."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import keras

    from kerascnn.recipe import Recipe


def build(
    recipe: Recipe, shape: tuple[int, int, int]
) -> tuple[keras.Model, keras.Model]:
    """Build a recipe's two models, which share their weights.

    Args:
        recipe: The recipe.
        shape: Height, width and channels of the raw images.

    Returns:
        The model to train and the model to keep. Both take raw images, uint8,
        `(batch, height, width, channels)`, and return logits, `(batch, classes)`. The
        first holds the whole transform, whose random layers act in training only; the
        second leaves those out, so that it is made of Keras's own layers alone and
        loads without this package.

    Raises:
        ValueError: The network does not take images of this shape.
    """
    import keras

    network = recipe.network()
    transform = recipe.transform()
    image = keras.Input(shape, dtype="uint8", name="image")

    def chain(layers: list[keras.layers.Layer], name: str) -> keras.Model:
        x = image
        for layer in layers:
            x = layer(x)
        # Keras would find out in the first step, if at all.
        given, taken = x.shape[1:], network.input_shape[1:]
        if any(t not in (None, g) for g, t in zip(given, taken, strict=True)):
            raise ValueError(f"it takes {taken}")
        return keras.Model(image, network(x), name=name)

    fixed = [layer for layer in transform if not is_random(layer)]
    return chain(transform, f"{recipe.name}_training"), chain(fixed, recipe.name)


def is_random(layer: keras.layers.Layer) -> bool:
    """Whether a layer of a transform acts in training only."""
    return type(layer).__name__.startswith("Random")


def weights_hash(model: keras.Model) -> str:
    """Return the SHA-256 of a model's weights: equal only where all bits are."""
    from keras import ops

    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).data)
    return digest.hexdigest()


def build_metrics(model: keras.Model) -> None:
    """Make the metrics of a compiled model of logits; Keras does at their first use."""
    from keras import ops

    logits = ops.zeros((1, model.output_shape[-1]))
    model.compute_metrics(None, ops.zeros((1,), "int32"), logits)
    model.reset_metrics()


def multiplications(model: keras.Model) -> list[int]:
    """Count, for each kernel, its multiplications in one image's forward pass.

    One for each weight and place that it is used at; those of models inside the model
    count too.
    """
    return [
        math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        for layer in _with_kernels(model)
    ]


def results(model: keras.Model) -> list[int]:
    """Count, for each kernel, the numbers that one image's forward pass makes.

    Those of models inside the model count too; a layer used twice counts once.
    """
    return [math.prod(layer.output.shape[1:]) for layer in _with_kernels(model)]


def _with_kernels(model: keras.Model) -> Iterator[keras.Layer]:
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _with_kernels(layer)
        elif getattr(layer, "kernel", None) is not None:
            yield layer
