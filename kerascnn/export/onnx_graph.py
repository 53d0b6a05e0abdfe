"""A Keras model as an ONNX graph, layer by layer.

Keras's own exporter on JAX writes pooling that onnxruntime refuses, so the layers are
mapped here: those of the recipes, and their neighbours. The graph takes raw images as
the model does, and computes with channels first, as ONNX has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper

from kerascnn.export.walk import (
    activation,
    check_several,
    joined_axis,
    levels,
    resizing,
    unmapped,
    walk,
)

OPSET, IR = 17, 8
IMAGE, LOGITS = "image", "logits"
_ACTIVATIONS = {
    "linear": (),
    "relu": ("Relu",),
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "softmax": ("Softmax",),
    "elu": ("Elu",),
    "softplus": ("Softplus",),
    "silu": ("Sigmoid", "Mul"),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A layer where it is called, its result's shape, and both ends in the graph."""

    layer: Any
    shape: tuple[int | None, ...]  # as Keras has it, channels last
    inputs: tuple[str, ...]
    result: str


class Graph:
    """The nodes and constants of a graph that is being written."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.calls: list[Call] = []
        self._names: set[str] = set()

    def constant(self, name: str, values: Any) -> str:
        """Keep an array, and return its name."""
        name = self._new(name)
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], name: str, **settings: Any) -> str:
        """Add a node, and return its output's name."""
        name = self._new(name)
        made = helper.make_node(kind, [*inputs], [name], name=name, **settings)
        self.nodes.append(made)
        return name

    def _new(self, name: str) -> str:
        number, chosen = 1, name
        while chosen in self._names:
            number += 1
            chosen = f"{name}_{number}"
        self._names.add(chosen)
        return chosen


def of_model(
    model: keras.Model, also: Callable[[Sequence[Call]], Sequence[Call]] | None = None
) -> onnx.ModelProto:
    """Return a model from raw images, uint8 channels last, to logits as ONNX.

    Args:
        model: The model.
        also: Chooses calls of layers with maps, whose results become outputs too,
            float32 with channels first, under their names in the graph.

    Raises:
        UsageError: A layer has no mapping; the message names the layer.
    """
    graph = Graph()
    *size, channels = model.input_shape[1:]
    image = helper.make_tensor_value_info(
        IMAGE, onnx.TensorProto.UINT8, ["batch", *size, channels]
    )
    values = graph.node("Cast", [IMAGE], "float", to=onnx.TensorProto.FLOAT)
    values = graph.node("Transpose", [values], "channels_first", perm=[0, 3, 1, 2])

    def add(layer: Any, read: list[Any], inputs: list[str]) -> str:
        return _add(graph, layer, read, inputs)

    def called(layer: Any, result: Any, inputs: list[str], name: str) -> None:
        call = Call(layer, tuple(result.shape), tuple(inputs), name)
        graph.calls.append(call)

    values = walk(model, [values], add, called)
    graph.node("Identity", [values], LOGITS)
    shapes = {LOGITS: model.output_shape[1:]}
    for call in also(graph.calls) if also else ():
        rows, columns, maps = call.shape[1:]
        shapes[call.result] = (maps, rows, columns)
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])
        for name, shape in shapes.items()
    ]
    made = helper.make_model(
        helper.make_graph(
            graph.nodes, model.name, [image], outputs, initializer=graph.constants
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="kerascnn",
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def _add(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    """Add one layer; return the name of its result."""
    add = _LAYERS.get(type(layer).__name__)
    if add is None:
        raise unmapped(layer, "has no mapping to ONNX")
    return add(graph, layer, read, inputs)


def _activated(graph: Graph, layer: Any, values: str) -> str:
    """Add a layer's activation."""
    name = activation(layer, [*_ACTIVATIONS])
    result = values
    for kind in _ACTIVATIONS[name]:
        inputs = [values, result] if kind == "Mul" else [result]
        result = graph.node(kind, inputs, f"{layer.name}/{name}")
    return result


def _convolution(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    kernel, groups = np.asarray(layer.kernel), getattr(layer, "groups", 1)
    if type(layer).__name__ == "DepthwiseConv2D":
        rows, columns, channels, times = kernel.shape
        kernel, groups = kernel.reshape(rows, columns, 1, channels * times), channels
    words = [inputs[0]]
    words.append(graph.constant(f"{layer.name}/kernel", kernel.transpose(3, 2, 0, 1)))
    if layer.use_bias:
        words.append(graph.constant(f"{layer.name}/bias", np.asarray(layer.bias)))
    settings = {"strides": layer.strides, "dilations": layer.dilation_rate}
    settings |= {"group": groups, "auto_pad": _PADDING[layer.padding]}
    return _activated(graph, layer, graph.node("Conv", words, layer.name, **settings))


_PADDING = {"valid": "VALID", "same": "SAME_UPPER"}


def _pooling(kind: str) -> Callable[..., str]:
    def add(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
        settings = {"kernel_shape": layer.pool_size, "strides": layer.strides}
        settings["auto_pad"] = _PADDING[layer.padding]
        return graph.node(kind, inputs, layer.name, **settings)

    return add


def _global_pooling(kind: str) -> Callable[..., str]:
    def add(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
        values = graph.node(kind, inputs, layer.name)
        if layer.keepdims:
            return values
        return graph.node("Flatten", [values], f"{layer.name}/flat")

    return add


def _normalization(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    if layer.axis not in (-1, len(read[0].shape) - 1):
        raise unmapped(layer, f"normalises axis {layer.axis}")
    mean = np.asarray(layer.moving_mean)
    gamma = np.asarray(layer.gamma) if layer.scale else np.ones_like(mean)
    beta = np.asarray(layer.beta) if layer.center else np.zeros_like(mean)
    arrays = {"gamma": gamma, "beta": beta, "mean": mean}
    arrays["variance"] = np.asarray(layer.moving_variance)
    words = [graph.constant(f"{layer.name}/{n}", a) for n, a in arrays.items()]
    return graph.node(
        "BatchNormalization", [*inputs, *words], layer.name, epsilon=layer.epsilon
    )


def _dense(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    kernel, values = np.asarray(layer.kernel), inputs[0]
    words = [graph.constant(f"{layer.name}/kernel", kernel)]
    if layer.use_bias:
        words.append(graph.constant(f"{layer.name}/bias", np.asarray(layer.bias)))
    if len(read[0].shape) == 2:
        values = graph.node("Gemm", [values, *words], layer.name)
        return _activated(graph, layer, values)
    if len(read[0].shape) != 4:
        raise unmapped(layer, f"takes arrays of {len(read[0].shape)} axes")
    values = graph.node("Transpose", [values], f"{layer.name}/in", perm=[0, 2, 3, 1])
    values = graph.node("MatMul", [values, words[0]], layer.name)
    for bias in words[1:]:
        values = graph.node("Add", [values, bias], f"{layer.name}/add")
    values = graph.node("Transpose", [values], f"{layer.name}/out", perm=[0, 3, 1, 2])
    return _activated(graph, layer, values)


def _flatten(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    values = inputs[0]
    if len(read[0].shape) == 4:  # rows, columns, channels, as Keras has them
        values = graph.node(
            "Transpose", inputs, f"{layer.name}/rows", perm=[0, 2, 3, 1]
        )
    return graph.node("Flatten", [values], layer.name)


def _zero_padding(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    (top, bottom), (left, right) = layer.padding
    pads = np.array([0, 0, top, left, 0, 0, bottom, right])
    words = [*inputs, graph.constant(f"{layer.name}/pads", pads)]
    return graph.node("Pad", words, layer.name)


def _pad(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    """Add `keras.ops.pad`, which the edge detectors of lecture 2 call."""
    widths = [tuple(pair) for pair in layer.pad_width]
    if len(widths) != 4 or layer.mode not in ("constant", "reflect", "edge"):
        raise unmapped(layer, f"pads {widths} in mode {layer.mode}")
    widths = [widths[axis] for axis in (0, 3, 1, 2)]
    pads = np.array([before for before, _ in widths] + [after for _, after in widths])
    words = [*inputs, graph.constant(f"{layer.name}/pads", pads)]
    return graph.node("Pad", words, layer.name, mode=layer.mode)


def _hypot(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    """Add the length of a gradient, of its two parts."""
    squares = [graph.node("Mul", [x, x], f"{layer.name}/square") for x in inputs]
    return graph.node(
        "Sqrt", [graph.node("Add", squares, f"{layer.name}/sum")], layer.name
    )


def _rescaling(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    values = inputs[0]
    for kind, number in (("Mul", layer.scale), ("Add", layer.offset)):
        array = np.asarray(number, "float32")
        if array.ndim:  # a number for each channel
            array = array.reshape(1, -1, *[1] * (len(read[0].shape) - 2))
        words = [values, graph.constant(f"{layer.name}/{kind}", array)]
        values = graph.node(kind, words, f"{layer.name}/{kind.lower()}ed")
    return values


def _resizing(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    """Add two matrix products, for along each axis resizing is linear; then round."""
    left, right = resizing(layer, read[0])
    rows = graph.constant(f"{layer.name}/rows", left)
    columns = graph.constant(f"{layer.name}/columns", right)
    values = graph.node("MatMul", [rows, *inputs], f"{layer.name}/height")
    if (found := levels(read[0])) is None:
        return graph.node("MatMul", [values, columns], layer.name)
    values = graph.node("MatMul", [values, columns], f"{layer.name}/width")
    values = graph.node("Round", [values], f"{layer.name}/rounded")
    ends = [
        graph.constant(f"{layer.name}/{name}", np.array(end, "float32"))
        for name, end in zip(("least", "largest"), found, strict=True)
    ]
    return graph.node("Clip", [values, *ends], layer.name)


def _together(kind: str) -> Callable[..., str]:
    def add(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
        check_several(layer, inputs)
        values = inputs[0]
        for other in inputs[1:]:
            values = graph.node(kind, [values, other], layer.name)
        return values

    return add


def _concatenate(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    axis = joined_axis(layer, read)
    return graph.node("Concat", inputs, layer.name, axis=axis)


def _activation(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    if len(read[0].shape) != 2 and layer.activation is keras.activations.softmax:
        raise unmapped(layer, "is a softmax of maps")
    return _activated(graph, layer, inputs[0])


def _relu(graph: Graph, layer: Any, read: list[Any], inputs: list[str]) -> str:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise unmapped(layer, "is no plain ReLU")
    return graph.node("Relu", inputs, layer.name)


_LAYERS: dict[str, Callable[..., str]] = {
    "Activation": _activation,
    "Add": _together("Add"),
    "AveragePooling2D": _pooling("AveragePool"),
    "BatchNormalization": _normalization,
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pooling("GlobalAveragePool"),
    "GlobalMaxPooling2D": _global_pooling("GlobalMaxPool"),
    "Hypot": _hypot,
    "MaxPooling2D": _pooling("MaxPool"),
    "Multiply": _together("Mul"),
    "Pad": _pad,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Resizing": _resizing,
    "Subtract": _together("Sub"),
    "ZeroPadding2D": _zero_padding,
}
