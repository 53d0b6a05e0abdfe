"""A Keras model's layers in the order in which it calls them, for other formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from kerascnn import UsageError
from kerascnn.acceleration.model import is_graph

# What does nothing outside of training.
_NOTHING = ("Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout")
_NOTHING += ("ActivityRegularization", "Identity", "InputLayer")

# Of a layer, the tensors that it reads and their names: the name of its result.
Add = Callable[[Any, list[Any], list[str]], str]
# A layer, the tensor that it returns, and the names of what it reads and of that.
Called = Callable[[Any, Any, list[str], str], None]


def walk(
    model: keras.Model, inputs: Sequence[str], add: Add, called: Called | None = None
) -> str:
    """Call `add` for each layer that computes something; return the last name.

    `called` is told of each layer.

    Raises:
        UsageError: A layer is no graph of layers, or has its channels first.
    """
    if not is_graph(model):
        raise unmapped(model, "is a model of its own")
    plain = keras.Model(model.inputs, model.outputs)
    # By identity; the tensors are kept, so that no other gets the identity of one.
    names: dict[int, str] = {}
    kept: list[Any] = []

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        read = [x for x in keras.tree.flatten((args, kwargs)) if id(x) in names]
        result = layer(*args, **kwargs)
        kept.append(result)
        ends = [names[id(x)] for x in read]
        if isinstance(layer, keras.Model):
            names[id(result)] = walk(layer, ends, add, called)
            return result
        names[id(result)] = _one(layer, read, ends, add)
        if called:
            called(layer, result, ends, names[id(result)])
        return result

    new = [keras.Input(batch_shape=x.shape, dtype=x.dtype) for x in plain.inputs]
    names |= {id(x): name for x, name in zip(new, inputs, strict=True)}
    clone = keras.models.clone_model(
        plain,
        input_tensors=new,
        clone_function=lambda layer: layer,
        call_function=call,
    )
    return names[id(clone.outputs[0])]


def _one(layer: Any, read: list[Any], inputs: list[str], add: Add) -> str:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise unmapped(layer, "has channels first")
    if type(layer).__name__ in _NOTHING:
        return inputs[0]
    return add(layer, read, inputs)


def unmapped(layer: Any, why: str) -> UsageError:
    """Return the error of a layer that a format does not have."""
    return UsageError(
        f"the layer {layer.name!r}, a {type(layer).__name__}, {why}; "
        "`kerascnn export RUN --to stablehlo` takes every layer."
    )


def activation(layer: Any, known: Sequence[str]) -> str:
    """Return the name of a layer's activation, `"linear"` of one without."""
    function = getattr(layer, "activation", None)
    name = getattr(function, "__name__", "linear") if function else "linear"
    if name not in known:
        raise unmapped(layer, f"has the activation {name}, which has no mapping")
    return name


def check_several(layer: Any, inputs: Sequence[str]) -> None:
    """Raise `UsageError` where a layer that joins several inputs reads a constant."""
    if len(inputs) < 2:
        raise unmapped(layer, "takes a constant")


def joined_axis(layer: Any, read: Sequence[Any]) -> int:
    """Return the axis along which a Concatenate joins, of maps with channels first."""
    axes = len(read[0].shape)
    axis = layer.axis % axes
    return {0: 0, 1: 2, 2: 3, 3: 1}[axis] if axes == 4 else axis


def levels(read: Any) -> tuple[float, float] | None:
    """Return the least and largest number of an image of integers; else None.

    Keras's Resizing rounds to them, and leaves such an image one of integers.
    """
    if not keras.backend.is_int_dtype(read.dtype):
        return None
    found = np.iinfo(read.dtype)
    return float(found.min), float(found.max)


def resizing(layer: Any, read: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices of a Resizing: along each axis resizing is linear.

    Rows, `(new, old)`, are multiplied from the left, columns, `(old, new)`, from the
    right.
    """
    _, height, width, channels = read.shape
    if None in (height, width) or layer.pad_to_aspect_ratio:
        raise unmapped(layer, "takes images of any size, or pads them")

    def matrix(pixels: int, along: int) -> np.ndarray:
        images = np.zeros((pixels, height, width, channels), "float32")
        for i in range(pixels):
            images[(i, *[slice(None)] * along, i)] = 1
        made = np.asarray(keras.ops.convert_to_numpy(layer(images)))
        return made[:, :, 0, 0] if along == 0 else made[:, 0, :, 0]

    return matrix(height, 0).T.copy(), matrix(width, 1)
