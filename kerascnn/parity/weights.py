"""Weights between Keras and PyTorch, both ways, and the files that hold PyTorch's.

The two differ in layout: a convolution's kernel is (height, width, in, out) in Keras
and (out, in, height, width) in PyTorch; a dense kernel is (in, out) and (out, in), and
after a flattening its inputs come in another order, since Keras flattens (height,
width, channels) and PyTorch (channels, height, width). BatchNorm's two vectors and two
statistics go over as they are.

Layers are paired in order: a Keras model's `Conv2D`, `Dense` and `BatchNormalization`
with the PyTorch modules that hold parameters. Fixed kernels (`trainable=False`) stay.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import torch
from torch import nn

from kerascnn import UsageError

# What a layer holds, in Keras's order: attribute, PyTorch's name.
PARAMETERS = {
    "Conv2D": (("kernel", "weight"), ("bias", "bias")),
    "Dense": (("kernel", "weight"), ("bias", "bias")),
    "BatchNormalization": (("gamma", "weight"), ("beta", "bias")),
}
STATISTICS = (("moving_mean", "running_mean"), ("moving_variance", "running_var"))

# Where safetensors files, which sort their tensors, keep a state dict's order.
ORDER = "order"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one Keras layer's arrays lie in PyTorch.

    Args:
        layer: The Keras layer.
        kind: `"Conv2D"`, `"Dense"` or `"BatchNormalization"`.
        flattened: Height, width and channels of what was flattened before a dense
            layer; `None` without.
    """

    layer: keras.layers.Layer
    kind: str
    flattened: tuple[int, int, int] | None = None

    @property
    def names(self) -> list[tuple[str, str]]:
        """Pairs of names of the layer's arrays, Keras's and PyTorch's."""
        pairs = list(PARAMETERS[self.kind])
        if self.kind == "BatchNormalization":
            return pairs + list(STATISTICS)
        return pairs if self.layer.use_bias else pairs[:1]

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Lay a Keras array (weight or its gradient) out as PyTorch does."""
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if array.ndim == 2:
            if self.flattened:
                height, width, channels = self.flattened
                parts = array.reshape(height, width, channels, -1)
                array = parts.transpose(2, 0, 1, 3).reshape(array.shape)
            return array.T
        return array

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        """Lay a PyTorch array out as Keras does: the inverse of `to_torch`."""
        if array.ndim == 4:
            return array.transpose(2, 3, 1, 0)
        if array.ndim == 2:
            array = array.T
            if self.flattened:
                height, width, channels = self.flattened
                parts = array.reshape(channels, height, width, -1)
                array = parts.transpose(1, 2, 0, 3).reshape(array.shape)
        return array


def layouts(model: keras.Model) -> list[Layout]:
    """Return a Functional model's layers that learn, in order, with their layouts.

    Raises:
        UsageError: A layer learns and is of no kind that can be carried over, is used
            more than once, or is a BatchNormalization without gamma or beta.
    """
    found = []
    for layer in model.layers:
        if not layer.trainable_weights:
            continue
        kind = _kind(layer)
        if kind is None:
            raise UsageError(
                f"the weights of layer {layer.name!r} ({type(layer).__name__}) can't "
                f"be carried over: expected {', '.join(PARAMETERS)}."
            )
        if len(layer._inbound_nodes) != 1:
            raise UsageError(
                f"layer {layer.name!r} is used {len(layer._inbound_nodes)} times: its "
                "place among PyTorch's modules is not clear."
            )
        if kind == "BatchNormalization" and not (layer.scale and layer.center):
            raise UsageError(
                f"layer {layer.name!r} has no gamma or no beta, and PyTorch's "
                "BatchNorm has both or none."
            )
        flattened = _flattened(layer) if kind == "Dense" else None
        found.append(Layout(layer, kind, flattened))
    return found


def _kind(layer: keras.layers.Layer) -> str | None:
    kinds = (getattr(keras.layers, name) for name in PARAMETERS)
    return next((kind.__name__ for kind in kinds if type(layer) is kind), None)


def _flattened(layer: keras.layers.Layer) -> tuple[int, int, int] | None:
    """Look back from a dense layer, over layers that keep the order, to a Flatten."""
    while True:
        layer = layer.input._keras_history.operation
        if isinstance(layer, keras.layers.Flatten):
            shape = layer.input.shape[1:]
            return tuple(shape) if len(shape) == 3 else None
        keeps = keras.layers.Dropout | keras.layers.Activation | keras.layers.ReLU
        if not isinstance(layer, keeps):
            return None


def to_torch(model: keras.Model, twin: nn.Module) -> nn.Module:
    """Copy a Keras model's weights and statistics into a PyTorch network.

    Args:
        model: A Functional model, built.
        twin: The network; its modules with parameters are those of the model, in
            order. Nothing is written unless everything fits.

    Returns:
        `twin`.

    Raises:
        UsageError: The two do not fit; the message names the Keras layer.

    Example:
        >>> to_torch(recipe.network(), twins.load("fashion_lenet").network())
    """
    state = twin.state_dict()
    for layout, entries in pairs(layouts(model), state):
        for keras_name, torch_name in layout.names:
            array = keras.ops.convert_to_numpy(getattr(layout.layer, keras_name))
            key = entries[torch_name]
            state[key] = torch.from_numpy(np.array(layout.to_torch(array)))
    twin.load_state_dict(state)
    return twin


def from_torch(
    state_dict: Mapping[str, torch.Tensor], model: keras.Model
) -> keras.Model:
    """Copy PyTorch's weights and statistics into a Keras model.

    Args:
        state_dict: As `torch.nn.Module.state_dict` returns it, in its order.
        model: A Functional model, built. Nothing is written unless everything fits.

    Returns:
        `model`.

    Raises:
        UsageError: The two do not fit; the message names the Keras layer.

    Example:
        >>> from_torch(read("fashion_lenet.safetensors"), recipe.network())
    """
    new = []
    for layout, entries in pairs(layouts(model), state_dict):
        for keras_name, torch_name in layout.names:
            tensor = state_dict[entries[torch_name]]
            array = tensor.detach().cpu().float().numpy()  # NumPy has no bfloat16
            new.append((getattr(layout.layer, keras_name), layout.to_keras(array)))
    for variable, array in new:
        variable.assign(array)
    return model


def learning(network: nn.Module) -> list[nn.Module]:
    """Return the modules with weights of a PyTorch network, in order."""
    return [module for module in network.modules() if hasattr(module, "weight")]


def pairs(
    found: Sequence[Layout], state_dict: Mapping[str, torch.Tensor]
) -> list[tuple[Layout, dict[str, str]]]:
    """Pair each Keras layer with the keys of its module, by PyTorch's names.

    Args:
        found: What `layouts` returned.
        state_dict: As `torch.nn.Module.state_dict` returns it, in its order.

    Returns:
        The layers with their keys, such as `{"weight": "0.weight"}`.

    Raises:
        UsageError: The two do not fit; the message names the Keras layer.
    """
    modules: dict[str, dict[str, str]] = {}
    for key in state_dict:
        module, _, name = key.rpartition(".")
        modules.setdefault(module, {})[name] = key
    # A module without `weight` learns nothing: its buffers are fixed.
    held = [(m, names) for m, names in modules.items() if "weight" in names]
    for i, layout in enumerate(found):
        name = f"layer {layout.layer.name!r} ({layout.kind})"
        if i == len(held):
            raise UsageError(
                f"{name} has no counterpart: PyTorch's network has {i} modules with "
                f"weights, Keras's has {len(found)}."
            )
        module, names = held[i]
        wanted = {torch_name for _, torch_name in layout.names}
        there = set(names) - {"num_batches_tracked"}
        if there != wanted:
            raise UsageError(
                f"{name} does not fit PyTorch's {module!r}: expected "
                f"{', '.join(sorted(wanted))}, found {', '.join(sorted(there))}."
            )
        for keras_name, torch_name in layout.names:
            expected = layout.to_torch(
                np.broadcast_to(0.0, getattr(layout.layer, keras_name).shape)
            ).shape
            shape = tuple(state_dict[names[torch_name]].shape)
            if shape != expected:
                raise UsageError(
                    f"{name} does not fit PyTorch's {module!r}: its {torch_name} is "
                    f"{shape}, expected {expected}."
                )
    if len(held) > len(found):
        last = f"ends with {found[-1].layer.name!r}" if found else "has none"
        raise UsageError(
            f"PyTorch's {held[len(found)][0]!r} has no counterpart: of layers with "
            f"weights, Keras's network {last}."
        )
    return [(layout, held[i][1]) for i, layout in enumerate(found)]


def write(path: Path, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict: safetensors where the name says so, else PyTorch's own form.

    Args:
        path: Ending in `.safetensors`, `.pt` or `.pth`.
        state_dict: What to write.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        tensors = {key: value.contiguous() for key, value in state_dict.items()}
        save_file(tensors, path, metadata={ORDER: json.dumps(list(tensors))})
    else:
        torch.save(dict(state_dict), path)


def read(path: Path, order: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Read a state dict, without ever running code from the file.

    Args:
        path: A safetensors file, or a state dict that `torch.save` wrote.
        order: The keys in the network's order. safetensors files sort their tensors;
            those of `write` remember the order, others need it told.

    Returns:
        The tensors in the network's order.

    Raises:
        UsageError: The file can't be read, holds more than tensors, or its order is
            not known.
    """
    try:
        if path.suffix == ".safetensors":
            tensors, remembered = _read_safetensors(path)
            order = order or remembered
            if order is None:
                raise UsageError(
                    f"{path} does not say in which order its tensors belong: pass "
                    "order=network.state_dict()."
                )
        else:
            tensors = torch.load(path, weights_only=True, map_location="cpu")
    except UsageError:
        raise
    except Exception as error:  # of many kinds: two libraries, an unknown file
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} can't be read as weights: {reason}") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(value, torch.Tensor) for value in tensors.values()
    ):
        raise UsageError(f"{path} holds more than tensors: expected a state dict.")
    order = list(order or tensors)
    if set(order) != set(tensors):
        odd = sorted(set(order) ^ set(tensors))[0]
        raise UsageError(f"{path} does not fit the network: {odd!r} is in one alone.")
    return {key: tensors[key] for key in order}


def _read_safetensors(
    path: Path,
) -> tuple[dict[str, torch.Tensor], list[str] | None]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    return tensors, json.loads(metadata[ORDER]) if ORDER in metadata else None
