"""What happens inside a training, as arrays: numbers of each step and of each layer.

A step's numbers are computed inside the compiled step and stay on the device until the
epoch has ended, so that no step waits for them. What layers answer is computed once an
epoch, of the same `SAMPLE` training images each time: inside the step it could not be
had, because the fast layers pool a convolution's output before they store it, and of so
few images a pass costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

# Keras's operations have no types of their own: pyright would take many for None.
ops: Any = keras.ops

# What is recorded: nothing; each step's numbers; those of the layers too.
KINDS = ("off", "light", "full")
# What a step's row begins with; in a full record three norms of each kernel follow.
STEP = ("loss", "learning_rate", "gradient_norm")
# Images that layers are looked at with, and pixels at once: 64 images of 32 x 32.
SAMPLE, PIXELS = 256, 64 * 32 * 32
# Seconds between two writings of the file: an epoch may be shorter than a writing.
SECONDS = 2.0


def row(
    kind: str,
    model: Any,
    loss: Any,
    rate: Any,
    gradients: Sequence[Any],
    old: Sequence[Any],
    new: Sequence[Any],
) -> Any:
    """Return a step's numbers, float32 `(3,)` or, in a full record, `(3 + 3 kernels,)`.

    They are loss, learning rate and gradient norm, then by kernel the norms of its
    gradient, its weights before the step, and its update. `rate` is `learning_rate`'s
    value; `old` and `new` hold the values of all trained variables.
    """
    squares = [_square(gradient) for gradient in gradients]
    # Half precision scales the loss.
    scale = ops.cast(model.optimizer.scale_loss(ops.ones(())), "float32")
    norm = ops.sqrt(sum(squares)) / scale
    values = [loss, float("nan") if rate is None else rate, norm]
    if kind == "full":
        chosen = kernels(model)
        values += [ops.sqrt(squares[i]) / scale for i in chosen]
        values += [ops.sqrt(_square(old[i])) for i in chosen]
        values += [ops.sqrt(_square(new[i] - old[i])) for i in chosen]
    return ops.stack([ops.cast(value, "float32") for value in values])


def kernels(model: Any) -> list[int]:
    """Return the places of kernels, of two axes or more, among trained variables."""
    return [i for i, v in enumerate(model.trainable_variables) if len(v.shape) > 1]


def _square(array: Any) -> Any:
    """Return an array's sum of squares, in a way that leaves the step's bits alone."""
    array = ops.cast(array, "float32")
    if keras.backend.backend() == "jax":
        import jax

        # Without the last bit of 23. Squares of the gradient itself XLA would compute
        # once for Adam and for this sum, and store them: Adam's would no longer be
        # multiplied and added at once, which rounds otherwise.
        array = jax.lax.reduce_precision(array, exponent_bits=8, mantissa_bits=22)
    return ops.sum(ops.square(array))


class Recorder(keras.callbacks.Callback):
    """Keeps what is recorded of a run, and writes it.

    By name, arrays of all steps, float32 `(steps,)`: `loss`, `learning_rate`,
    `gradient_norm`, with `step`, int64, counted from 1 over the run; and in a full
    record of all epochs, float32 `(epochs, layers)`, with `epoch`, int64:

    - `gradient_to_weight`, `update_to_weight`: norms of a kernel's gradient and update
      by the norm of its weights, the mean over an epoch's steps;
    - `dead`: the share of a layer's units that gave 0 for every image looked at, NaN
      of a layer without ReLU; `activation_mean`, `activation_deviation`;
    - `moving_mean`, `moving_variance` of BatchNorm: lowest, middle and highest of the
      channels, `(epochs, layers, 3)`.

    `kernel_layers`, `activation_layers` and `norm_layers` name the layers.
    """

    needs_no_state = True

    def __init__(
        self,
        kind: str,
        kept: keras.Model,
        images: np.ndarray,
        steps: int,
        save: Callable[[Mapping[str, np.ndarray]], object] = lambda arrays: None,
    ):
        super().__init__()
        self.kind = kind
        self._kept, self._steps, self._save = kept, steps, save
        self._images, self._places = images, sample(images.shape)
        self._arrays: dict[str, np.ndarray] = {}
        self._rows: list[tuple[int, Any]] = []  # of the epoch: steps before, numbers
        self._epoch = 0
        self._layers: _Layers | None = None
        self._written = time.perf_counter()

    def add(self, before: int, rows: Any) -> None:
        """Take rows, `(steps, numbers)`, that an epoch's first `before` steps precede.

        They may be under way still: nobody waits for them here.
        """
        self._rows.append((before, rows))

    def latest(self) -> tuple[float, ...] | None:
        """Return a step's loss, learning rate and gradient norm, of the epoch.

        The last step's may be under way; those before it are not waited for.
        """
        done = [rows for _, rows in self._rows[-2:]]
        if not done or (len(done) < 2 and not isinstance(done[0], np.ndarray)):
            return None
        numbers = np.asarray(ops.convert_to_numpy(done[0]))[-1]
        return tuple(map(float, numbers[: len(STEP)]))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._rows = epoch, []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.kind == "off":
            return
        places, rows = self._stacked()
        self._append(_of_steps(places, rows))
        if self.kind == "full":
            _ = self.model  # brings the weights of a compiled step into the variables
            self._append(self._of_layers(rows))
        self._rows = []
        if time.perf_counter() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Write what is recorded, the steps of an epoch that was stopped included."""
        found = dict(self._arrays)
        if self._rows:
            for name, values in _of_steps(*self._stacked()).items():
                found[name] = _joined(found.get(name), values)
        if found:  # also what a run that goes on without a record had before
            found |= self._names()
            # In one order, whether the run has gone on or not.
            self._save({name: found[name] for name in sorted(found)})
        self._written = time.perf_counter()

    def state(self) -> dict[str, np.ndarray]:
        """Return all that a run which goes on needs, by name."""
        found = dict(self._arrays)
        if self._rows:
            places, rows = self._stacked()
            # Kept so, because each saving inside an epoch would fetch all rows again.
            self._rows = [(self._before(places), rows)]
            found["row_places"], found["rows"] = places, rows
        return found

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Take back what `state` has returned; where layers differ, leave theirs."""
        arrays = dict(state)
        places, rows = arrays.pop("row_places", ()), arrays.pop("rows", ())
        self._arrays, names = arrays, {}
        if "epoch" in arrays:
            names = self._names()
        # They differ in a recipe that was changed by force.
        if any(arrays[k].shape[1] != len(names[_LAYERS[k]]) for k in _LAYERS if names):
            self._arrays = {k: arrays[k] for k in ("step", *STEP)}
        self._rows = [(self._before(places), rows)] if len(places) else []

    def _before(self, places: np.ndarray) -> int:
        return int(places[0]) - self._epoch * self._steps - 1

    def _stacked(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the epoch's steps, counted over the run from 1, and their rows."""
        pairs = [
            (before, np.asarray(ops.convert_to_numpy(each)).reshape(len(each), -1))
            for before, each in self._rows
        ]
        width = max((each.shape[1] for _, each in pairs), default=len(STEP))
        # A run that goes on with a fuller record has rows of two widths.
        rows = [
            np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=np.nan)
            for _, each in pairs
        ]
        places = [before + np.arange(1, len(each) + 1) for before, each in pairs]
        begun = self._epoch * self._steps
        return (
            np.concatenate(places or [np.zeros(0)]).astype("int64") + begun,
            np.concatenate(rows or [np.zeros((0, width))]).astype("float32"),
        )

    def _of_layers(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return an epoch's numbers of the layers."""
        if self._layers is None:
            self._layers = _Layers(self._kept)
        found = {"epoch": np.array(self._epoch + 1)}
        known = rows[:, len(STEP) :].astype("float64")
        if not known.shape[1]:  # where the run goes on with a fuller record
            known = np.full((1, 3 * len(kernels(self._kept))), np.nan)
        gradients, weights, updates = np.split(known, 3, axis=1)
        found |= _ratios(gradients, weights, updates)
        parts = [np.asarray(self._images[each]) for each in self._places]
        found |= self._layers.activations(parts)
        return found | self._layers.statistics()

    def _append(self, found: Mapping[str, np.ndarray]) -> None:
        for name, values in found.items():
            if name not in ("step", *STEP):
                kind = "int64" if name == "epoch" else "float32"
                values = np.asarray(values, kind)[None]
            self._arrays[name] = _joined(self._arrays.get(name), values)

    def _names(self) -> dict[str, np.ndarray]:
        if self.kind != "full" and "epoch" not in self._arrays:
            return {}
        if self._layers is None:
            self._layers = _Layers(self._kept)
        return self._layers.names


# The layers that an array's second axis counts.
_LAYERS = {
    **dict.fromkeys(("gradient_to_weight", "update_to_weight"), "kernel_layers"),
    **dict.fromkeys(
        ("dead", "activation_mean", "activation_deviation"), "activation_layers"
    ),
    **dict.fromkeys(("moving_mean", "moving_variance"), "norm_layers"),
}


def sample(shape: Sequence[int]) -> np.ndarray:
    """Return the places of the images that layers are looked at with, part by part."""
    # All parts have one size, because each other one would be compiled.
    most = min(SAMPLE, shape[0])
    size = min(max(PIXELS // (shape[1] * shape[2]), 1), most)
    size = 2 ** (size.bit_length() - 1) if size < most else size
    places = np.linspace(0, shape[0] - 1, most - most % size)
    return places.round().astype(int).reshape(-1, size)


def _of_steps(places: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"step": places} | {name: rows[:, i] for i, name in enumerate(STEP)}


def _joined(before: np.ndarray | None, values: np.ndarray) -> np.ndarray:
    return values if before is None else np.concatenate([before, values])


def _ratios(
    gradients: np.ndarray, weights: np.ndarray, updates: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the means over steps that are finite, of norms by the weights' norms."""
    found = {}
    for name, norms in (
        ("gradient_to_weight", gradients),
        ("update_to_weight", updates),
    ):
        ratios = norms / np.where(weights > 0, weights, np.nan)
        finite = np.isfinite(ratios)
        total = np.where(finite, ratios, 0).sum(0)
        found[name] = total / np.where(finite.any(0), finite.sum(0), np.nan)
    return found


class _Layers:
    """The layers of a network that are looked at."""

    def __init__(self, kept: Any):
        last = kept.layers[-1]
        network = last if isinstance(last, keras.Model) else kept
        self._before = kept.layers[1:-1] if network is not kept else []
        named = list(_named(network))
        self._active = [
            (name, layer)
            for name, layer in named
            if layer in network.layers and _is_active(layer)
        ]
        self._norms = [
            (name, layer)
            for name, layer in named
            if isinstance(layer, keras.layers.BatchNormalization)
        ]
        of = {id(v): name for name, layer in named for v in layer.trainable_variables}
        places = kernels(kept)
        of_kernels = [kept.trainable_variables[i] for i in places]
        names = [of.get(id(v), v.path) for v in of_kernels]
        answers = _answers(network, [layer for _, layer in self._active])
        if answers is None:
            self._active = []
        self.names = {
            "kernel_layers": np.array(
                [
                    f"{name}, {v.name}" if names.count(name) > 1 else name
                    for name, v in zip(names, of_kernels, strict=True)
                ],
                str,
            ),
            "activation_layers": np.array([name for name, _ in self._active], str),
            "norm_layers": np.array([name for name, _ in self._norms], str),
        }
        self._summary = None
        if self._active:
            self._summary = _Summary(self._before, answers)

    def activations(self, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Return what the layers answer on parts of raw images, as a record has it."""
        names = ("dead", "activation_mean", "activation_deviation")
        if self._summary is None:
            return {name: np.zeros(0) for name in names}
        parts = [self._summary.predict_on_batch(part) for part in images]
        found = []
        for (_, layer), *of_parts in zip(self._active, *parts, strict=True):
            largest = np.max([part[0] for part in of_parts], axis=0)
            dead = np.mean(largest == 0) if _is_relu(layer) else np.nan
            mean = np.mean([part[1] for part in of_parts], dtype="float64")
            square = np.mean([part[2] for part in of_parts], dtype="float64")
            found.append((dead, mean, np.sqrt(np.maximum(square - mean**2, 0))))
        return dict(zip(names, np.array(found).T, strict=True))

    def statistics(self) -> dict[str, np.ndarray]:
        """Return BatchNorm's moving statistics: lowest, middle, highest channel."""
        return {
            name: np.array(
                [
                    np.percentile(
                        ops.convert_to_numpy(getattr(layer, name)), (0, 50, 100)
                    )
                    for _, layer in self._norms
                ]
            ).reshape(-1, 3)
            for name in ("moving_mean", "moving_variance")
        }


def _answers(network: Any, layers: Sequence[Any]) -> keras.Model | None:
    """Return a model of layers' outputs, `None` where they are not of one graph."""
    # A layer that was called elsewhere first gives that output.
    try:
        outputs = [layer.output for layer in layers]
        return keras.Model(network.inputs, outputs, name="answers") if layers else None
    except (AttributeError, ValueError):
        return None


class _Summary(keras.Model):
    """Of raw images, each layer's largest outputs by unit, their mean and square."""

    def __init__(self, before: Sequence[keras.layers.Layer], answers: keras.Model):
        super().__init__(name="summary", trainable=False)
        self._before, self._answers = list(before), answers

    def call(self, images: Any) -> list[tuple[Any, Any, Any]]:
        for layer in self._before:
            images = layer(images, training=False)
        found = []
        for output in keras.tree.flatten(self._answers(images, training=False)):
            output = ops.cast(output, "float32")
            axes = tuple(range(len(output.shape) - 1))
            largest = ops.max(output, axis=axes)
            found.append((largest, ops.mean(output), ops.mean(ops.square(output))))
        return found


def _named(network: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Give a network's layers, those inside others too, as class and count."""
    # Keras counts its own names over all networks of a process.
    counts: dict[str, int] = {}

    def walk(model: Any) -> Iterator[tuple[str, keras.layers.Layer]]:
        for layer in model.layers:
            if isinstance(layer, keras.Model):
                yield from walk(layer)
                continue
            kind = type(layer).__name__
            counts[kind] = counts.get(kind, 0) + 1
            yield f"{kind} {counts[kind]}", layer

    return walk(network)


_ACTIVATIONS = (
    *(keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU),
    *(keras.layers.ELU, keras.layers.PReLU),
)


def _is_active(layer: keras.layers.Layer) -> bool:
    """Whether a layer ends with an activation function."""
    function = getattr(layer, "activation", keras.activations.linear)
    return isinstance(layer, _ACTIVATIONS) or function is not keras.activations.linear


def _is_relu(layer: keras.layers.Layer) -> bool:
    if isinstance(layer, keras.layers.ReLU):
        return layer.negative_slope == 0 and layer.threshold == 0
    return getattr(layer, "activation", None) in (
        keras.activations.relu,
        keras.activations.relu6,
    )
