"""A run's model as the ONNX graph that the page runs: logits, and the layers' maps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper

from kerascnn.export import onnx_graph
from kerascnn.export.onnx_graph import Call
from kerascnn.report import wording

# Layers whose maps are shown, and layers that are shown with the one before them.
_SHOWN = ("Add", "Concatenate", "Dense", "Hypot", "Multiply", "Subtract")
_WITH_IT = ("Activation", "BatchNormalization", "ReLU")
# Arrays of fewer numbers are left as they are.
_LARGE = 1024


@dataclasses.dataclass(frozen=True)
class Stage:
    """A layer with what follows it alone: its output in the graph, and its maps."""

    output: str
    says: str
    maps: int
    height: int
    width: int


def of_model(model: keras.Model) -> tuple[bytes, list[Stage]]:
    """Return a run's model as an ONNX file, and the stages whose maps it returns.

    Args:
        model: From raw images of one size to logits.

    Raises:
        UsageError: A layer has no mapping; the message names the layer.
    """
    found: list[list[Call]] = []

    def chosen(calls: Sequence[Call]) -> list[Call]:
        found.extend(stages(calls))
        return [stage[-1] for stage in found]

    made = onnx_graph.of_model(model, chosen)
    _halve(made.graph)
    return made.SerializeToString(), [_described(stage) for stage in found]


def stages(calls: Sequence[Call]) -> list[list[Call]]:
    """Sort the layers that have maps of more than a pixel into stages, in order.

    A stage is a layer, and the activation and normalisation that nothing else than it
    goes into and nothing goes past.
    """
    # What does nothing outside of training has no result of its own.
    working = [call for call in calls if call.result not in call.inputs]
    readers = Counter(name for call in working for name in call.inputs)
    found: dict[str, list[Call]] = {}  # by the name of the last result
    for call in working:
        if len(call.shape) != 4 or min(side or 0 for side in call.shape[1:3]) < 2:
            continue
        kind, before = type(call.layer).__name__, call.inputs[0]
        if kind in _WITH_IT and before in found and readers[before] == 1:
            found[call.result] = [*found.pop(before), call]
        elif "Conv" in kind or "Pooling" in kind or kind in _SHOWN:
            found[call.result] = [call]
    return sorted(found.values(), key=lambda stage: working.index(stage[0]))


def _described(stage: Sequence[Call]) -> Stage:
    layers = [call.layer for call in stage]
    says = [wording.call(type(x).__name__, x.get_config()) for x in layers]
    height, width, maps = (int(side or 0) for side in stage[-1].shape[1:])
    return Stage(stage[-1].result, " + ".join(says), maps, height, width)


def _halve(graph: Any) -> None:
    """Store arrays in half precision where that changes no number of theirs."""
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        if values.dtype != "float32" or values.size < _LARGE:
            continue
        with np.errstate(over="ignore"):
            half = values.astype("float16")
        if not np.array_equal(half.astype("float32"), values):
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(half, f"{name}/half"))
        single = onnx.TensorProto.FLOAT
        node = helper.make_node("Cast", [f"{name}/half"], [name], name=name, to=single)
        graph.node.insert(0, node)
