"""A Keras model as plain PyTorch: the text of a class, and its tensors.

The class is written for a reader: the modules by the layers' names, then the images'
way through them. The layers are those of `onnx_graph`.
"""

from __future__ import annotations

import dataclasses
import json
import keyword
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kerascnn.export.walk import (
    activation,
    check_several,
    joined_axis,
    levels,
    resizing,
    unmapped,
    walk,
)

if TYPE_CHECKING:
    import keras

_WIDTH = 88
FILE = '''\
"""{name} in plain PyTorch, as kerascnn wrote it. It needs torch and safetensors.

    from {stem} import CLASSES, load

    logits = load()(images)  # images: torch.uint8, (n, {size}), raw pixels
    names = [CLASSES[i] for i in logits.argmax(1)]

The trained tensors are read from {stem}.safetensors, which lies beside this file.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

CLASSES = {classes}


class {kind}(nn.Module):
    """Raw images, uint8 (n, {size}), to logits, (n, {logits})."""

    def __init__(self):
        super().__init__()
{modules}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.permute(0, 3, 1, 2).float()  # channels first, as PyTorch has them
{steps}
        return {result}


def load(file: Path = Path(__file__).with_suffix(".safetensors")) -> {kind}:
    """Return the trained network."""
    network = {kind}()
    network.load_state_dict(load_file(file))
    return network.eval()


if __name__ == "__main__":
    print(load())
'''
_ACTIVATIONS = {
    "linear": "{}",
    "relu": "F.relu({})",
    "sigmoid": "torch.sigmoid({})",
    "tanh": "torch.tanh({})",
    "softmax": "torch.softmax({}, 1)",
    "elu": "F.elu({})",
    "softplus": "F.softplus({})",
    "silu": "F.silu({})",
    "gelu": "F.gelu({})",
}
# Attributes of nn.Module that a layer may be called by.
_TAKEN = {
    *("apply", "bfloat16", "buffers", "children", "compile", "cpu", "cuda", "double"),
    *("eval", "float", "forward", "half", "modules", "parameters", "to", "train"),
    *("training", "type", "T_destination", "zero_grad", "requires_grad_", "xpu"),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A line of `forward`: an expression, with a gap for each value that it reads."""

    expression: str
    reads: tuple[int, ...]
    shape: tuple[int | None, ...]


class Code:
    """The parts of a class that is being written. Values are numbers, 0 the images."""

    def __init__(self):
        self.modules: list[str] = []
        self.steps: list[Step] = []
        self.tensors: dict[str, np.ndarray] = {}
        self._names: dict[int, str] = {}  # by the identity of layers

    def name(self, layer: Any) -> str:
        """Return the attribute that a layer is, a name of its own."""
        if id(layer) not in self._names:
            name = re.sub(r"\W", "_", layer.name)
            if not name.isidentifier() or keyword.iskeyword(name) or name in _TAKEN:
                name = f"layer_{name}"
            first, number = name, 1
            while name in self._names.values():
                number += 1
                name = f"{first}_{number}"
            self._names[id(layer)] = name
        return self._names[id(layer)]

    def module(
        self, layer: Any, kind: str, words: Sequence[Any], **tensors: Any
    ) -> str:
        """Add a module and its tensors, once for each layer; return `self.NAME`."""
        known = id(layer) in self._names
        name = self.name(layer)
        if not known:
            arguments = ", ".join(map(str, words))
            self.modules.append(_broken(f"self.{name} = nn.{kind}(", arguments))
            for tensor, values in tensors.items():
                if values is not None:
                    array = np.asarray(values)
                    self.tensors[f"{name}.{tensor}"] = np.ascontiguousarray(
                        array, "int64" if array.dtype.kind == "i" else "float32"
                    ).reshape(array.shape)
        return f"self.{name}"

    def buffer(self, layer: Any, what: str, values: np.ndarray) -> str:
        """Add an array that is no parameter; return `self.NAME`."""
        name = f"{self.name(layer)}_{what}"
        if name not in self.tensors:
            shape = ", ".join(map(str, values.shape))
            self.modules.append(f'self.register_buffer("{name}", torch.zeros({shape}))')
            self.tensors[name] = np.ascontiguousarray(values, "float32")
        return f"self.{name}"

    def step(self, expression: str, reads: Sequence[str], shape: Any) -> str:
        """Add a line of `forward`; return its value."""
        self.steps.append(Step(expression, tuple(map(int, reads)), tuple(shape)))
        return str(len(self.steps))

    def forward(self, result: str) -> tuple[list[str], str]:
        """Write the lines of `forward`; return them and the name of the result."""
        last = dict.fromkeys(range(len(self.steps) + 1), -1)
        for place, step in enumerate(self.steps):
            last |= dict.fromkeys(step.reads, place)
        last[int(result)] = len(self.steps)
        names, lines = {0: "x"}, []
        for place, step in enumerate(self.steps):
            read = [names[each] for each in step.reads]
            # What no later line reads may be overwritten.
            live = {names[each] for each in names if last[each] > place}
            names[place + 1] = next(n for n in _letters() if n not in live)
            line = f"{names[place + 1]} = {step.expression.format(*read)}"
            lines.append(_commented(line, step.shape))
        return lines, names[int(result)]


def _letters():
    yield from "xyzuvw"
    number = 0
    while True:
        number += 1
        yield f"x{number}"


def _commented(line: str, shape: tuple[int | None, ...]) -> str:
    """Add what an image is by now, channels first, where the line has room."""
    _, *sizes = shape
    if len(sizes) == 3:
        sizes = [sizes[2], *sizes[:2]]
    comment = f"  # {' x '.join(map(str, sizes))}"
    return line + comment if 8 + len(line) + len(comment) <= _WIDTH else line


def _broken(head: str, arguments: str) -> str:
    """Write a call on one line, or on three."""
    if 8 + len(head) + len(arguments) + 1 <= _WIDTH:
        return f"{head}{arguments})"
    return f"{head}\n            {arguments}\n        )"


def of_model(
    model: keras.Model, name: str, classes: Sequence[str], stem: str
) -> tuple[str, dict[str, np.ndarray]]:
    """Return the text of a PyTorch module and its tensors by name.

    Args:
        model: From raw images, uint8 channels last, to logits.
        name: The recipe's, from which the class has its own.
        classes: The names of the logits.
        stem: Of the file that the text will be.

    Raises:
        UsageError: A layer has no mapping; the message names the layer.
    """
    code = Code()

    def add(layer: Any, read: list[Any], inputs: list[str]) -> str:
        written = _LAYERS.get(type(layer).__name__)
        if written is None:
            raise unmapped(layer, "has no mapping to PyTorch")
        return written(code, layer, read, inputs)

    lines, result = code.forward(walk(model, ["0"], add))
    quoted = [json.dumps(each, ensure_ascii=False) for each in classes]
    listed = ",\n".join(f"    {each}" for each in quoted)
    text = FILE.format(
        name=name,
        stem=stem,
        kind="".join(map(str.capitalize, name.split("_"))),
        size=", ".join("any" if n is None else str(n) for n in model.input_shape[1:]),
        logits=model.output_shape[-1],
        classes=f"[\n{listed},\n]",
        modules="\n".join(f"        {line}" for line in code.modules or ["pass"]),
        steps="\n".join(f"        {line}" for line in lines),
        result=result,
    )
    return text, code.tensors


def _of(layer: Any, name: str) -> np.ndarray | None:
    """Return a layer's array, `None` of one without."""
    import keras

    variable = getattr(layer, name, None)
    return None if variable is None else keras.ops.convert_to_numpy(variable)


def _array(layer: Any, name: str) -> np.ndarray:
    found = _of(layer, name)
    assert found is not None
    return found


def _pair(values: Sequence[int]) -> str:
    """Write two sizes as PyTorch takes them: one, where they are the same."""
    return str(values[0]) if values[0] == values[1] else f"({values[0]}, {values[1]})"


def _activated(layer: Any, expression: str) -> str:
    return _ACTIVATIONS[activation(layer, [*_ACTIVATIONS])].replace("{}", expression)


def _borders(
    layer: Any, read: Any, size: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """Return what "same" adds above and below, left and right."""
    if layer.padding == "valid":
        return (0, 0), (0, 0)
    found = []
    for pixels, window, stride in zip(read.shape[1:3], size, strides, strict=True):
        if pixels is None and stride > 1:
            raise unmapped(layer, "takes images of any size, with strides")
        left = (-(-pixels // stride) - 1) * stride + window - pixels if pixels else 0
        total = window - 1 if stride == 1 else max(left, 0)
        found.append((total // 2, total - total // 2))
    return tuple(found)


def _padded(expression: str, borders: Sequence[tuple[int, int]], more: str = "") -> str:
    (top, bottom), (left, right) = borders
    return f"F.pad({expression}, ({left}, {right}, {top}, {bottom}){more})"


def _convolution(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    kernel, groups = _array(layer, "kernel"), getattr(layer, "groups", 1)
    channels = read[0].shape[-1]
    if type(layer).__name__ == "DepthwiseConv2D":
        rows, columns, _, times = kernel.shape
        kernel, groups = kernel.reshape(rows, columns, 1, channels * times), channels
    size, dilation = kernel.shape[:2], layer.dilation_rate
    reach = [d * (n - 1) + 1 for n, d in zip(size, dilation, strict=True)]
    borders = _borders(layer, read[0], reach, layer.strides)
    alike = all(before == after for before, after in borders)
    words = [channels, kernel.shape[-1], _pair(size)]
    words += [f"stride={_pair(layer.strides)}"] * (max(layer.strides) > 1)
    if alike and any(map(any, borders)):
        words.append(f"padding={_pair([before for before, _ in borders])}")
    words += [f"dilation={_pair(dilation)}"] * (max(dilation) > 1)
    words += [f"groups={groups}"] * (groups > 1)
    words += ["bias=False"] * (not layer.use_bias)
    bias = _of(layer, "bias") if layer.use_bias else None
    weight = kernel.transpose(3, 2, 0, 1)
    called = code.module(layer, "Conv2d", words, weight=weight, bias=bias)
    given = "{0}" if alike else _padded("{0}", borders)
    shape = layer.compute_output_shape(read[0].shape)
    return code.step(_activated(layer, f"{called}({given})"), inputs, shape)


def _pooling(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    largest = type(layer).__name__.startswith("Max")
    kind = "max" if largest else "avg"
    borders = _borders(layer, read[0], layer.pool_size, layer.strides)
    words = [_pair(layer.pool_size)]
    if tuple(layer.strides) != tuple(layer.pool_size):
        words.append(f"stride={_pair(layer.strides)}")
    padded, alike = any(map(any, borders)), all(b == a for b, a in borders)
    # PyTorch pads by half of the window at most.
    fits = all(2 * b <= n for (b, _), n in zip(borders, layer.pool_size, strict=True))
    given = "{0}"
    if padded and alike and fits:
        words.append(f"padding={_pair([before for before, _ in borders])}")
        words += ["count_include_pad=False"] * (not largest)
    elif padded and largest:
        given = _padded("{0}", borders, ", value=-torch.inf")
    elif padded:
        given = _padded("{0}", borders)
    shape = layer.compute_output_shape(read[0].shape)
    pooled = f"F.{kind}_pool2d({given}, {', '.join(words)})"
    found = code.step(pooled, inputs, shape)
    if padded and not (alike and fits) and not largest:
        # The mean is of the pixels that are there.
        ones = pooled.replace("{0}", "torch.ones_like({0})")
        found = code.step("{0} / {1}", [found, code.step(ones, inputs, shape)], shape)
    return found


def _global_pooling(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    kind = "amax" if "Max" in type(layer).__name__ else "mean"
    keep = ", keepdim=True" * layer.keepdims
    shape = layer.compute_output_shape(read[0].shape)
    return code.step(f"{{0}}.{kind}((2, 3){keep})", inputs, shape)


def _normalization(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    axes = len(read[0].shape)
    if layer.axis not in (-1, axes - 1):
        raise unmapped(layer, f"normalises axis {layer.axis}")
    mean = _array(layer, "moving_mean")
    gamma = _of(layer, "gamma") if layer.scale else np.ones_like(mean)
    beta = _of(layer, "beta") if layer.center else np.zeros_like(mean)
    called = code.module(
        layer,
        "BatchNorm2d" if axes == 4 else "BatchNorm1d",
        [len(mean), f"eps={layer.epsilon!r}"],
        weight=gamma,
        bias=beta,
        running_mean=mean,
        running_var=_array(layer, "moving_variance"),
        num_batches_tracked=np.array(0),
    )
    return code.step(f"{called}({{0}})", inputs, read[0].shape)


def _dense(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    kernel, axes = _array(layer, "kernel"), len(read[0].shape)
    if axes not in (2, 4):
        raise unmapped(layer, f"takes arrays of {axes} axes")
    bias = _of(layer, "bias") if layer.use_bias else None
    words = [*kernel.shape, *["bias=False"] * (not layer.use_bias)]
    called = code.module(layer, "Linear", words, weight=kernel.T, bias=bias)
    expression = f"{called}({{0}})"
    if axes == 4:  # of each pixel
        expression = f"{called}({{0}}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)"
    shape = (*read[0].shape[:-1], kernel.shape[1])
    return code.step(_activated(layer, expression), inputs, shape)


def _flatten(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    shape = read[0].shape
    expression = "{0}.flatten(1)"
    if len(shape) == 4 and tuple(shape[1:3]) != (1, 1):
        # Rows, columns, channels: in Keras's order, which the next weights expect.
        expression = "{0}.permute(0, 2, 3, 1).flatten(1)"
    return code.step(expression, inputs, layer.compute_output_shape(shape))


def _zero_padding(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    shape = layer.compute_output_shape(read[0].shape)
    return code.step(_padded("{0}", layer.padding), inputs, shape)


def _pad(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    """Add `keras.ops.pad`, which the edge detectors of lecture 2 call."""
    widths = [tuple(pair) for pair in layer.pad_width]
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    fits = len(widths) == 4 and not any(widths[0]) and not any(widths[3])
    if not fits or layer.mode not in modes:
        raise unmapped(layer, f"pads {widths} in mode {layer.mode}")
    more = f', mode="{modes[layer.mode]}"'
    _, rows, columns, channels = read[0].shape
    sizes = [
        n and n + sum(w) for n, w in zip((rows, columns), widths[1:3], strict=True)
    ]
    expression = _padded("{0}", widths[1:3], more)
    return code.step(expression, inputs, (None, *sizes, channels))


def _hypot(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    return code.step("torch.hypot({0}, {1})", inputs, read[0].shape)


def _rescaling(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    words = []
    for what in ("scale", "offset"):
        numbers = np.asarray(getattr(layer, what), "float32")
        if numbers.ndim:  # a number for each channel
            shape = (-1, *[1] * (len(read[0].shape) - 2))
            words.append(code.buffer(layer, what, numbers.reshape(shape)))
        else:
            words.append(str(numbers))
    expression = f"{{0}} * {words[0]}"
    if words[1].startswith("-"):
        expression += f" - {words[1][1:]}"
    elif words[1] != "0.0":
        expression += f" + {words[1]}"
    return code.step(expression, inputs, read[0].shape)


def _resizing(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    """Write two matrix products, for along each axis resizing is linear; then round."""
    rows, columns = resizing(layer, read[0])
    left = code.buffer(layer, "rows", rows)
    right = code.buffer(layer, "columns", columns)
    shape = (None, len(rows), columns.shape[1], read[0].shape[-1])
    resized = code.step(f"{left} @ {{0}} @ {right}", inputs, shape)
    if (found := levels(read[0])) is None:
        return resized
    least, largest = found
    return code.step(f"{{0}}.round().clamp({least}, {largest})", [resized], shape)


def _together(sign: str) -> Callable[..., str]:
    def add(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
        check_several(layer, inputs)
        gaps = [f"{{{i}}}" for i in range(len(inputs))]
        return code.step(f" {sign} ".join(gaps), inputs, read[0].shape)

    return add


def _concatenate(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    axis = joined_axis(layer, read)
    gaps = ", ".join(f"{{{i}}}" for i in range(len(inputs)))
    shape = layer.compute_output_shape([each.shape for each in read])
    return code.step(f"torch.cat([{gaps}], {axis})", inputs, shape)


def _activation(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    if len(read[0].shape) != 2 and activation(layer, [*_ACTIVATIONS]) == "softmax":
        raise unmapped(layer, "is a softmax of maps")
    return code.step(_activated(layer, "{0}"), inputs, read[0].shape)


def _relu(code: Code, layer: Any, read: list[Any], inputs: list[str]) -> str:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise unmapped(layer, "is no plain ReLU")
    return code.step("F.relu({0})", inputs, read[0].shape)


_LAYERS: dict[str, Callable[..., str]] = {
    "Activation": _activation,
    "Add": _together("+"),
    "AveragePooling2D": _pooling,
    "BatchNormalization": _normalization,
    "Concatenate": _concatenate,
    "Conv2D": _convolution,
    "Dense": _dense,
    "DepthwiseConv2D": _convolution,
    "Flatten": _flatten,
    "GlobalAveragePooling2D": _global_pooling,
    "GlobalMaxPooling2D": _global_pooling,
    "Hypot": _hypot,
    "MaxPooling2D": _pooling,
    "Multiply": _together("*"),
    "Pad": _pad,
    "ReLU": _relu,
    "Rescaling": _rescaling,
    "Resizing": _resizing,
    "Subtract": _together("-"),
    "ZeroPadding2D": _zero_padding,
}
