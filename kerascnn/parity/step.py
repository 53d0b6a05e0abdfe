"""Compare what one training step computes, layer by layer, and its update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import keras
import numpy as np

from kerascnn import UsageError
from kerascnn.parity import mistakes
from kerascnn.parity.check import CEILING, FORWARD, Check, checked, relative
from kerascnn.parity.keras_step import KerasTrainer, Step
from kerascnn.parity.shared_randomness import branches
from kerascnn.parity.torch_step import Batch, TorchTrainer
from kerascnn.parity.weights import Layout
from kerascnn.recipe import Recipe
from kerascnn.twins.twin import Twin

# Twelve layers forward and back, and sums over all places of an image.
GRADIENT = 1e-4
# One Adam step from equal gradients, in units of the learning rate: rounding alone. The
# last digit of the weights comes on top.
UPDATE = 1e-4
# Rounding is a matter of chance, so PyTorch computes by Keras's formulas so many times,
# each time with all weights moved by their last digit. Of 3 draws, the largest times
# `ROUNDING` was too little for a kernel of cifar_bn_12; of 8 and of 16 enough.
SHAKEN = 16


WATCHED = {
    "Conv2D": "convolution",
    "Dense": "dense",
    "BatchNormalization": "norm",
    "MaxPooling2D": "maximum",
    "AveragePooling2D": "average",
    "Resizing": "resizing",
    "Dropout": "dropout",
}


# By layer and parameter.
Gradients = dict[tuple[str, str], np.ndarray]


Named = TypeVar("Named")


@dataclasses.dataclass(frozen=True)
class Pair:
    """The two sides, with the same weights, before their first step."""

    recipe: Recipe
    twin: Twin
    watched: list[tuple[keras.layers.Layer, str]]
    layouts: list[Layout]
    keras_trainer: KerasTrainer
    torch_trainer: TorchTrainer


def watch(network: keras.Model) -> list[tuple[keras.layers.Layer, str]]:
    """Return the layers whose outputs are compared, each with its kind."""
    return [
        (activation_after(layer) or layer, WATCHED[type(layer).__name__])
        for layer in network.layers
        if type(layer).__name__ in WATCHED
    ]


def activation_after(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """Return the `Activation` that is a BatchNormalization's: it has none inside.

    A shortcut may be added in between.
    """
    if not isinstance(layer, keras.layers.BatchNormalization):
        return None
    following = layer
    while following is layer or isinstance(following, keras.layers.Add):
        nodes = following._outbound_nodes
        if len(nodes) != 1:
            return None
        following = nodes[0].operation
    return following if isinstance(following, keras.layers.Activation) else None


def take_step(pair: Pair, batch: Batch, mistake: str | None) -> Step:
    """Let Keras take a step."""
    shifted = mistake == "label_shift"
    labels = (batch.labels + 1) % 10 if shifted else batch.labels
    return pair.keras_trainer.step(batch.images, labels)


def compare_step(
    pair: Pair,
    batch: Batch,
    step: Step,
    ours: Gradients,
    inferred: tuple[np.ndarray, np.ndarray] | None,
) -> Iterator[Check]:
    """Compare what a step computes, forward and back, before its update."""
    torch_trainer = pair.torch_trainer
    outputs = numpy_outputs(pair.watched, step)
    yield from compare_outputs(pair.watched, outputs, torch_trainer, batch)
    if inferred:
        yield Check(
            "inference",
            "logits",
            relative(*inferred),
            FORWARD,
            "BatchNorm's running statistics or epsilon, or an active Dropout",
        )
    sides = branches(pair.watched, outputs)

    def compute() -> float:
        with torch_trainer.branching(sides):
            return torch_trainer.loss(batch)

    loss = compute()
    # The cross-entropy's gradient by the logits, probabilities minus labels, sums to 2
    # at most in absolute values: the loss moves by twice their largest difference.
    logits = keras.ops.convert_to_numpy(step.outputs[-1])
    moved = 2 * float(np.abs(logits - torch_trainer.logits).max()) / loss
    yield Check(
        "loss",
        "cross-entropy",
        relative(np.array(float(step.crossentropy)), np.array(loss)),
        FORWARD + moved,
        "other labels (off by one?), or a softmax before a loss that takes logits",
    )
    theirs = torch_trainer.gradients()
    own: dict[tuple[str, str], float] = {}
    if any(relative(ours[name], theirs[name]) > GRADIENT for name in theirs):

        def gradients() -> Gradients:
            compute()
            return torch_trainer.gradients()

        own = roundings(torch_trainer, gradients, theirs)
    for name in theirs:
        yield checked(
            "gradient",
            " ".join(name),
            (ours[name], theirs[name], own.get(name)),
            GRADIENT,
            "the backward pass of this layer or one above it",
        )


def compare_zeros(pair: Pair, batch: Batch) -> Iterator[Check]:
    """Compare the biases' gradients of half black images and convolutions without bias.

    There ReLU's inputs are exactly zero, which no other images of this comparison make
    of them: its derivative is zero.
    """
    names = [
        (layout.layer.name, "bias")
        for layout in pair.layouts
        if isinstance(layout.layer, keras.layers.Conv2D)
        and layout.layer.activation is keras.activations.relu
        and layout.layer.use_bias
        and layout.layer.trainable
    ]
    images = batch.images.copy()
    images[:, :, : images.shape[2] // 2] = 0
    batch = dataclasses.replace(batch, images=images)
    zeroed = [variable_of(pair.layouts, name) for name in names]
    step = pair.keras_trainer.step_of_zeros(images, batch.labels, zeroed)
    if not names or step is None:
        return
    ours = paired_gradients(pair, step)
    sides = branches(pair.watched, numpy_outputs(pair.watched, step))
    if not pair.torch_trainer.fits(sides):
        return  # `compare_step` says what differs
    with pair.torch_trainer.zeroed(names):
        with pair.torch_trainer.branching(sides):
            pair.torch_trainer.loss(batch)
        theirs = pair.torch_trainer.gradients()
    for name in names:
        yield Check(
            "zeros",
            " ".join(name),
            relative(ours[name], theirs[name]),
            CEILING,
            "ReLU's derivative at zero, which is zero",
            "images half black",
        )


def compare_outputs(
    watched: list[tuple[keras.layers.Layer, str]],
    ours: dict[keras.layers.Layer, np.ndarray],
    torch_trainer: TorchTrainer,
    batch: Batch,
) -> Iterator[Check]:
    """Compare what each layer computes in training."""
    theirs = by_layer(watched, torch_trainer.outputs(batch))
    own: dict[keras.layers.Layer, float] = {}
    if any(relative(ours[layer], theirs[layer]) > FORWARD for layer, _ in watched):
        own = roundings(
            torch_trainer,
            lambda: by_layer(watched, torch_trainer.outputs(batch)),
            theirs,
        )
    for layer, _ in watched:
        yield checked(
            "forward",
            layer.name,
            (ours[layer], theirs[layer], own.get(layer)),
            FORWARD,
            forward_reason(layer),
        )


def compare_update(
    pair: Pair, gradients: Gradients, mistake: str | None
) -> Iterator[Check]:
    """Compare the weights after the first update, and BatchNorm's statistics."""
    if pair.twin.optimizers:
        yield from compare_own_update(pair, gradients)
    else:
        yield from compare_adam(pair, gradients)
    statistics = pair.torch_trainer.statistics(unbiased=mistake == "bn_variance")
    for (layer, name), after in statistics.items():
        new = pair.keras_trainer.value(variable_of(pair.layouts, (layer, name)))
        reason = mistakes.MISTAKES["bn_momentum"][0]
        if name == "moving_variance":
            reason += f"; or {mistakes.MISTAKES['bn_variance'][0]}"
        yield Check(
            "statistics",
            f"{layer} {name}",
            relative(new, after),
            FORWARD,
            reason,
            "PyTorch's variance made biased" if name == "moving_variance" else "",
        )


def compare_adam(pair: Pair, gradients: Gradients) -> Iterator[Check]:
    """Compare the weights after Adam's first update."""
    rate = pair.twin.learning_rate
    for name, updated in pair.torch_trainer.updated(gradients).items():
        new = pair.keras_trainer.value(variable_of(pair.layouts, name))
        yield Check(
            "update",
            " ".join(name),
            float(np.abs(new - updated).max() / rate),
            UPDATE + 2 * float(np.spacing(np.abs(new).max())) / rate,
            mistakes.MISTAKES["adam_eps"][0],
            "in learning rates",
        )


def compare_own_update(pair: Pair, gradients: Gradients) -> Iterator[Check]:
    """Compare the first steps of optimisers that don't move all weights as far.

    Muon makes the rounding of a gradient's smallest singular values larger, so the
    distance from float64 says how much of it there is.
    """
    trainer = pair.torch_trainer
    updated = trainer.updated(gradients)
    with trainer.doubled():
        exact = trainer.updated(gradients)
    for name, theirs in updated.items():
        old = trainer.value(name)
        new = pair.keras_trainer.value(variable_of(pair.layouts, name))
        digit = 2 * float(np.spacing(np.abs(new).max()))
        yield checked(
            "update",
            " ".join(name),
            (new - old, theirs - old, relative(theirs - old, exact[name] - old)),
            UPDATE + digit / float(np.abs(theirs - old).max()),
            "another optimiser, another rate, or another decay",
        )


def roundings(
    torch_trainer: TorchTrainer,
    compute: Callable[[], Mapping[Named, np.ndarray]],
    theirs: Mapping[Named, np.ndarray],
) -> dict[Named, float]:
    """Return how far rounding alone leads: the largest distances from float64."""
    with torch_trainer.doubled():
        exact = compute()
    largest = {name: relative(theirs[name], exact[name]) for name in theirs}
    backend = keras.backend.backend()
    for seed in range(SHAKEN):
        with torch_trainer.normalizing_as_keras(backend), torch_trainer.shaken(seed):
            found = compute()
        for name, value in found.items():
            largest[name] = max(largest[name], relative(value, exact[name]))
    return largest


def numpy_outputs(
    watched: list[tuple[keras.layers.Layer, str]], step: Step
) -> dict[keras.layers.Layer, np.ndarray]:
    """Return what Keras's watched layers computed in a step."""
    return {
        layer: keras.ops.convert_to_numpy(output)
        for (layer, _), output in zip(watched, step.outputs, strict=False)
    }


def by_layer(
    watched: list[tuple[keras.layers.Layer, str]],
    outputs: dict[str, list[np.ndarray]],
) -> dict[keras.layers.Layer, np.ndarray]:
    """Pair a twin's outputs with Keras's layers: the first of a kind with the first."""
    for kind in WATCHED.values():
        ours, theirs = sum(k == kind for _, k in watched), len(outputs[kind])
        if ours != theirs:
            raise UsageError(
                f"the network has {ours} layers of the kind {kind!r}, its PyTorch twin "
                f"{theirs}: there is nothing to compare."
            )
    left = {kind: list(found) for kind, found in outputs.items()}
    return {layer: left[kind].pop(0) for layer, kind in watched}


def paired_gradients(pair: Pair, step: Step) -> Gradients:
    """Return Keras's gradients by layer and parameter."""
    place = {id(v): i for i, v in enumerate(pair.keras_trainer.variables)}
    return {
        (layout.layer.name, name): keras.ops.convert_to_numpy(
            step.gradients[place[id(getattr(layout.layer, name))]]
        )
        for layout in pair.layouts
        for name, _ in layout.names
        if id(getattr(layout.layer, name)) in place
    }


def variable_of(layouts: list[Layout], name: tuple[str, str]) -> keras.Variable:
    """Return the variable of a layer."""
    layer = next(x.layer for x in layouts if x.layer.name == name[0])
    return getattr(layer, name[1])


def forward_reason(layer: keras.layers.Layer) -> str:
    """Return what is likely wrong with the first layer whose output differs."""
    match type(layer).__name__:
        case "BatchNormalization" | "Activation":
            return mistakes.MISTAKES["bn_eps"][0]
        case "Dense":
            return mistakes.MISTAKES["flatten_order"][0]
        case "Conv2D":
            if tuple(layer.strides) != (1, 1):
                return mistakes.MISTAKES["stride_same"][0]
            return "its kernel's layout, or its padding"
        case "Dropout":
            return "the rate is not the share that is dropped"
    return "another kind of pooling, or another border"
