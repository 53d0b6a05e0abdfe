"""What a contender of plain PyTorch builds and trains on, in words without Keras.

    python -m kerascnn.bench.description RECIPE BATCH IMAGES TRANSFORM

writes a pickled `Description`, or the `UsageError`, to standard output. A process of
its own reads the recipe for the contender, because a program in plain PyTorch would not
hold Keras and JAX, which a recipe imports.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, processes

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kerascnn.recipe import Recipe

# Keras's names and the modules of `torch.nn`.
ACTIVATIONS = {"relu": "ReLU", "sigmoid": "Sigmoid", "silu": "SiLU", "linear": ""}

# The name of what to make, and its arguments.
Call = tuple[str, tuple[Any, ...]]


@dataclasses.dataclass
class Description:
    """A training, described.

    Args:
        layers: Modules of `torch.nn`, one after another.
        transform: Steps of `plain_torch.transform`.
        learning_rate: Adam's.
        dataset: The name of the set, for epochs.
        images: A scaled batch, float32 `(batch, height, width, channels)`, for steps;
            None for epochs.
        labels: Its labels, int32 `(batch,)`; likewise.
    """

    layers: list[Call]
    transform: list[Call]
    learning_rate: float
    dataset: str
    images: np.ndarray | None = None
    labels: np.ndarray | None = None


def of(name: str, batch: int, images: int, random: bool) -> Description:
    """Describe a recipe's training; another process reads the recipe.

    Args:
        name: The recipe's name.
        batch: Images a step.
        images: Images an epoch; 0 for steps on one scaled batch.
        random: Whether epochs draw the recipe's random transforms.

    Raises:
        UsageError: The network, the optimiser or the transform has no twin in PyTorch.
        subprocess.CalledProcessError: The other process failed; it has said why.
    """
    transform = "random" if random else "fixed"
    done = subprocess.run(
        [sys.executable, "-m", __name__, name, str(batch), str(images), transform],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = pickle.loads(done.stdout)
    if isinstance(found, UsageError):
        raise found
    return found


def describe(recipe: Recipe, batch: int, images: int, random: bool) -> Description:
    """Describe a recipe's training, as `of` does."""
    import keras

    from kerascnn.bench import with_keras
    from kerascnn.without_weights import without_weights

    recipe = recipe if random else with_keras.without_random(recipe)
    optimizer = recipe.optimizer()
    if not isinstance(optimizer, keras.optimizers.Adam):
        raise UsageError(
            f"the benchmarks have no plain PyTorch for {type(optimizer).__name__}."
        )
    # The Keras network is read for its settings: it need not have weights.
    layers = network(without_weights(recipe.network))
    rate = float(optimizer.learning_rate)
    description = Description(layers, [], rate, recipe.dataset)
    if images:
        description.transform = transform(recipe.transform())
    else:
        split = with_keras.scaled_batch(recipe, batch)
        description.images, description.labels = split.images, split.labels
    return description


def network(model: keras.Model) -> list[Call]:
    """Describe the PyTorch twin of a Functional Keras model that is a chain of layers.

    Args:
        model: A chain of `Conv2D`, `Dense`, `MaxPooling2D`, `AveragePooling2D`,
            `ZeroPadding2D`, `BatchNormalization`, `Dropout`, `Flatten` and activations.

    Returns:
        Modules from NCHW images to logits.

    Raises:
        UsageError: The model branches, or holds another layer.
    """
    modules: list[Call] = []
    for before, layer in zip(model.layers, model.layers[1:], strict=False):
        if layer.input is not before.output:
            raise UsageError(
                f"the benchmarks rebuild chains of layers in PyTorch, and {model.name} "
                f"branches at {layer.name}."
            )
        modules += _modules(layer)
    return modules


def _modules(layer: keras.layers.Layer) -> list[Call]:
    import keras

    match layer:
        case keras.layers.Conv2D():
            channels, kernel = layer.input.shape[-1], layer.kernel_size
            same = layer.padding == "same"
            if same and layer.strides != (1, 1):
                raise UsageError(f"{layer.name}: same padding with a stride.")
            padding = tuple(k // 2 for k in kernel) if same else 0
            settings = channels, layer.filters, kernel, layer.strides, padding
            return [("Conv2d", settings), *_activation(layer)]
        case keras.layers.Dense():
            settings = layer.input.shape[-1], layer.units
            return [("Linear", settings), *_activation(layer)]
        case keras.layers.MaxPooling2D():
            return [("MaxPool2d", (layer.pool_size, layer.strides))]
        case keras.layers.AveragePooling2D():
            return [("AvgPool2d", (layer.pool_size, layer.strides))]
        case keras.layers.ZeroPadding2D():
            (top, bottom), (left, right) = layer.padding
            return [("ZeroPad2d", ((left, right, top, bottom),))]
        case keras.layers.BatchNormalization():
            return [("BatchNorm2d", (layer.input.shape[-1],))]
        case keras.layers.Dropout():
            return [("Dropout", (layer.rate,))]
        case keras.layers.Flatten():
            return [("Flatten", ())]
        case keras.layers.Activation():
            return _activation(layer)
    raise UsageError(
        f"the benchmarks can't rebuild the layer {layer.name} "
        f"({type(layer).__name__}) in PyTorch."
    )


def _activation(layer: keras.layers.Layer) -> list[Call]:
    name = layer.activation.__name__
    if name not in ACTIVATIONS:
        raise UsageError(f"the benchmarks have no plain PyTorch for {name}.")
    return [(ACTIVATIONS[name], ())] if ACTIVATIONS[name] else []


def transform(layers: Sequence[keras.layers.Layer]) -> list[Call]:
    """Describe a recipe's transform.

    Args:
        layers: Made of `Rescaling`, `RandomFlip("horizontal")` and `RandomCrop`.

    Raises:
        UsageError: Another layer.
    """
    return [_step(layer) for layer in layers]


def _step(layer: keras.layers.Layer) -> Call:
    match name := type(layer).__name__:
        case "Rescaling":
            return "rescale", (layer.scale, layer.offset)
        case "RandomFlip" if layer.mode == "horizontal":
            return "flip", ()
        case "RandomCrop":
            return "crop", (layer.padding,)
    raise UsageError(f"the benchmarks have no plain PyTorch for {name}.")


def main() -> None:
    """Write the description that the arguments ask for."""
    from kerascnn import recipe as recipes

    name, batch, images, transform = sys.argv[1:]
    output = processes.answers()
    try:
        found = describe(
            recipes.load(name), int(batch), int(images), transform == "random"
        )
    except UsageError as error:
        found = error
    pickle.dump(found, output)
    output.close()


if __name__ == "__main__":
    # Not `__main__.Description`, which the reader would not have.
    from kerascnn.bench import description

    description.main()
