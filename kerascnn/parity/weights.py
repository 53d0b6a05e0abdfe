"""Weights between Keras and PyTorch, both ways, and the files that hold PyTorch's.

A kernel is (height, width, in, out) in Keras and (out, in, height, width) in PyTorch, a
dense one (in, out) and (out, in). After a flattening its inputs come in another order,
because Keras flattens (height, width, channels) and PyTorch (channels, height, width).

Layers are paired in order: a Keras model's `Conv2D`, `Dense` and `BatchNormalization`
with the PyTorch modules that hold parameters. Fixed kernels (`trainable=False`) stay.
Whatever else a state dict holds is refused, and so is a layer after which a flattened
map's values are in no known order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
MODULES: dict[str, tuple[type[nn.Module], ...]] = {
    "Conv2D": (nn.Conv2d,),
    "Dense": (nn.Linear,),
    "BatchNormalization": (nn.BatchNorm1d, nn.BatchNorm2d),
}
# Of BatchNorm, beside the running statistics: a count that nothing depends on.
COUNT = "num_batches_tracked"

# Where safetensors files, which sort their tensors, keep a state dict's order.
ORDER = "order"


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one Keras layer's arrays lie in PyTorch.

    `flattened` is the height, width and channels of the map that the layer takes
    flattened.
    """

    layer: keras.layers.Layer
    kind: str
    flattened: tuple[int, int, int] | None = None

    @property
    def names(self) -> list[tuple[str, str]]:
        """Pairs of names of the layer's arrays, Keras's and PyTorch's."""
        pairs = list(PARAMETERS[self.kind])
        if self.kind == "BatchNormalization":
            return pairs[not self.layer.scale :] + list(STATISTICS)
        return pairs if self.layer.use_bias else pairs[:1]

    @property
    def ones(self) -> list[str]:
        """PyTorch's names of arrays of ones that the layer does without."""
        without = self.kind == "BatchNormalization" and not self.layer.scale
        return ["weight"] * without

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """Lay a Keras array (weight or its gradient) out as PyTorch does."""
        if array.ndim == 4:
            return array.transpose(3, 2, 0, 1)
        if flattened := self._flattened(array):
            parts = array.reshape(*flattened, -1)
            array = parts.transpose(2, 0, 1, 3).reshape(array.shape)
        return array.T

    def to_keras(self, array: np.ndarray) -> np.ndarray:
        """Lay a PyTorch array out as Keras does: the inverse of `to_torch`."""
        if array.ndim == 4:
            return array.transpose(2, 3, 1, 0)
        array = array.T
        if flattened := self._flattened(array):
            height, width, channels = flattened
            parts = array.reshape(channels, height, width, -1)
            array = parts.transpose(1, 2, 0, 3).reshape(array.shape)
        return array

    def _flattened(self, array: np.ndarray) -> tuple[int, int, int] | None:
        # A dense layer's bias has its outputs' order, BatchNorm's vectors its inputs'.
        return self.flattened if array.ndim == 2 or self.kind != "Dense" else None


def layouts(model: keras.Model) -> list[Layout]:
    """Return a Functional model's layers that learn, in order, with their layouts.

    Raises `UsageError` for a layer of which PyTorch's layout is not known.
    """
    for operation in getattr(model, "operations", model.layers):
        _check_order(operation)
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
        if kind == "BatchNormalization" and not layer.center:
            raise UsageError(
                f"layer {layer.name!r} has no beta, and PyTorch's BatchNorm has both "
                "gamma and beta, or none."
            )
        found.append(Layout(layer, kind, _flattened(layer.input)))
    return found


def _kind(layer: keras.layers.Layer) -> str | None:
    kinds = (getattr(keras.layers, name) for name in PARAMETERS)
    return next((kind.__name__ for kind in kinds if type(layer) is kind), None)


# What moves values, layers of Keras and operations of `keras.ops`.
MOVING = ("Reshape", "Permute", "Transpose", "Moveaxis", "Swapaxes")
# What begins a vector anew, and what leaves each of its values where it is.
NEW = (
    *(keras.layers.InputLayer, keras.layers.Dense),
    *(keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D),
)
KEEPING = (
    *(keras.layers.Flatten, keras.layers.Reshape, keras.layers.Dropout),
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU),
    *(keras.layers.ELU, keras.layers.BatchNormalization, keras.layers.Identity),
)


def _check_order(operation: Any) -> None:
    """Raise `UsageError` if an operation moves a map's values and does not flatten."""
    if getattr(operation, "data_format", "channels_last") == "channels_first":
        raise UsageError(
            f"layer {operation.name!r} has its channels first, and weights are carried "
            "over from channels last."
        )
    if type(operation).__name__ not in MOVING:
        return
    for node in operation._inbound_nodes:
        source = node.input_tensors[0]
        old, new = source.shape[1:], node.output_tensors[0].shape[1:]
        flattens = len(new) == 1
        # An image of one channel: its values are in rows in PyTorch too.
        makes_image = new[-1] == 1 and len(old) < 3 and not _flattened(source)
        if type(operation).__name__ == "Reshape" and (flattens or makes_image):
            continue
        raise UsageError(
            f"layer {operation.name!r} ({type(operation).__name__}) makes {new} of "
            f"{old}: where a map's values are after it is not known in PyTorch."
        )


def _flattened(tensor: Any) -> tuple[int, int, int] | None:
    """Return height, width, channels of the map that a vector was; `None` of no map."""
    operation, node = tensor._keras_history[:2]
    if len(tensor.shape) != 2 or isinstance(operation, NEW):
        return None
    sources = operation._inbound_nodes[node].input_tensors
    shape, name = sources[0].shape[1:], type(operation).__name__
    if len(shape) > 1 and name in ("Flatten", "Reshape"):
        return tuple(shape) if len(shape) == 3 else None
    found = [_flattened(source) for source in sources]
    if any(found) and not isinstance(operation, KEEPING):
        raise UsageError(
            f"layer {operation.name!r} ({name}) takes a flattened map: where its "
            "values are after it is not known in PyTorch."
        )
    if len(shape) > 1:
        raise UsageError(
            f"layer {operation.name!r} ({name}) makes a vector of {tuple(shape)}: "
            "where a map's values are after it is not known in PyTorch."
        )
    return found[0]


def to_torch(model: keras.Model, twin: nn.Module) -> nn.Module:
    """Copy a Keras model's weights and statistics into a PyTorch network; return it.

    Raises `UsageError`, and writes nothing, where the two do not fit.
    """
    state = twin.state_dict()
    for layout, entries in pairs(layouts(model), state):
        path = entries["weight"].rpartition(".")[0]
        module, kinds = twin.get_submodule(path), MODULES[layout.kind]
        if not isinstance(module, kinds):
            raise UsageError(
                f"layer {layout.layer.name!r} ({layout.kind}) does not fit PyTorch's "
                f"{path!r}: it is a {type(module).__name__}, expected "
                f"{' or '.join(kind.__name__ for kind in kinds)}."
            )
        for keras_name, torch_name in layout.names:
            array = keras.ops.convert_to_numpy(getattr(layout.layer, keras_name))
            if array.dtype.name == "bfloat16":  # not NumPy's own: PyTorch refuses it
                array = array.astype("float32")
            key = entries[torch_name]
            state[key] = torch.from_numpy(np.array(layout.to_torch(array)))
    twin.load_state_dict(state)
    return twin


def from_torch(
    state_dict: Mapping[str, torch.Tensor], model: keras.Model
) -> keras.Model:
    """Copy a state dict's weights and statistics into a Keras model; return it.

    Raises `UsageError`, and writes nothing, where the two do not fit.
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
    """Pair each layer with its module's keys, such as `{"weight": "0.weight"}`."""
    modules: dict[str, dict[str, str]] = {}
    for key, value in state_dict.items():
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise UsageError(
                f"expected a state dict, tensors by name, not {type(value).__name__} "
                f"by {key!r}."
            )
        module, _, name = key.rpartition(".")
        if name != COUNT:
            modules.setdefault(module, {})[name] = key
    held = [(m, names) for m, names in modules.items() if "weight" in names]
    for i, layout in enumerate(found):
        name = f"layer {layout.layer.name!r} ({layout.kind})"
        if i == len(held):
            raise UsageError(
                f"{name} has no counterpart: PyTorch's network has {i} modules with "
                f"weights, Keras's has {len(found)}."
            )
        module, names = held[i]
        wanted = {torch_name for _, torch_name in layout.names} | {*layout.ones}
        if set(names) != wanted:
            raise UsageError(
                f"{name} does not fit PyTorch's {module!r}: expected "
                f"{', '.join(sorted(wanted))}, found {', '.join(sorted(names))}."
            )
        for torch_name in layout.ones:
            if not bool((state_dict[names[torch_name]] == 1).all()):
                raise UsageError(
                    f"{name} has no gamma, and PyTorch's {names[torch_name]!r} is not "
                    "1 everywhere."
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
    for names in modules.values():
        if "weight" not in names:
            raise UsageError(
                f"PyTorch's {next(iter(names.values()))!r} has no counterpart in "
                "Keras's network."
            )
    return [(layout, held[i][1]) for i, layout in enumerate(found)]


def write(path: str | Path, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Write a state dict as `.safetensors`, or PyTorch's own `.pt` or `.pth`."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(
            f"{path}: expected a name ending in .safetensors, .pt or .pth."
        )
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        tensors = {key: value.contiguous() for key, value in state_dict.items()}
        save_file(tensors, path, metadata={ORDER: json.dumps(list(tensors))})
    else:
        torch.save(dict(state_dict), path)


def read(
    path: str | Path, order: Iterable[str] | None = None
) -> dict[str, torch.Tensor]:
    """Read a state dict, in the network's order, without running code from the file.

    safetensors files sort their tensors; those of `write` remember the order, others
    need it told. Raises `UsageError` for a file that is damaged or holds more than
    finite tensors.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".safetensors":
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
        isinstance(key, str) and isinstance(value, torch.Tensor)
        for key, value in tensors.items()
    ):
        raise UsageError(
            f"{path} holds more than tensors by name: expected a state dict."
        )
    for key, value in tensors.items():
        if value.is_floating_point() and not value.float().isfinite().all():
            raise UsageError(f"{path} can't be used: {key!r} is not finite everywhere.")
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
    if ORDER not in metadata:
        return tensors, None
    order = json.loads(metadata[ORDER])
    if not isinstance(order, list) or not all(isinstance(key, str) for key in order):
        raise UsageError(f"{path} can't be read as weights: its order is no list.")
    return tensors, order
