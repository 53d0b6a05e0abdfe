"""Compare a recipe with its twin, quantity by quantity, and find where they part.

Same weights, batches and random draws, in float32 and in the order of the computation:
the first `Check` that fails is where the two part.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import torch
from torch import nn

from kerascnn import UsageError, twins
from kerascnn.parity import breaking, weights
from kerascnn.parity import images as pictures
from kerascnn.parity.batches import compare_batches, prepare, size
from kerascnn.parity.check import Check
from kerascnn.parity.initial import compare_initial, compare_penalties
from kerascnn.parity.keras_step import make_trainer
from kerascnn.parity.shared_randomness import Dice
from kerascnn.parity.step import Pair, activation_after, watch
from kerascnn.parity.torch_step import Batch, TorchTrainer
from kerascnn.parity.trace import compare_training
from kerascnn.parity.transforms import DRAWN, compare_transforms
from kerascnn.parity.weights import Layout
from kerascnn.recipe import Recipe, check_parameters
from kerascnn.training import build


def compare(
    recipe: Recipe,
    accelerate: bool = True,
    mistake: str | None = None,
    steps: int | None = None,
    after_step: Callable[[int], None] | None = None,
) -> Iterator[Check]:
    """Yield the checks of a recipe beside its twin, in the order of the computation.

    `after_step` is told of each step but the last, from 1.
    """
    twin = twins.load(recipe.name)
    much = size(recipe.parameters)
    much = dataclasses.replace(much, steps=steps or much.steps)
    build.set_seed(0)
    torch.manual_seed(0)
    with quick_draws():
        network = recipe.network()
    check_parameters(recipe, network)
    if mistake:
        breaking.check(mistake, recipe, network)
    network = breaking.broken_network(mistake, network)
    recipe = breaking.broken_recipe(mistake, recipe)
    module = twin.network()
    layouts = weights.layouts(network)
    weights.pairs(layouts, module.state_dict())
    check_activations(network)

    yield from compare_batches(recipe, twin)
    raw = pictures.of(recipe)
    yield from compare_transforms(recipe, twin, raw.images[:DRAWN])
    first = raw.images[: build.ADAPTED]
    if recipe.adapt:
        scaled = scaled_by(recipe, first)
        recipe.adapt(network, scaled)
        assert twin.adapt is not None
        twin.adapt(module, scaled)
    yield from compare_initial(layouts, module)
    shake(layouts)
    weights.to_torch(network, module)
    yield from compare_penalties(layouts, module, twin)
    if mistake == "flatten_order":
        forget_order(layouts, module)
    watched = watch(network)
    keras_trainer = make_trainer(
        *(network, [w for w, _ in watched], recipe.optimizer(much.steps)),
        *(accelerate, recipe.label_smoothing),
    )
    torch_trainer = TorchTrainer(module, twin, layouts, much.steps)
    pair = Pair(recipe, twin, watched, layouts, keras_trainer, torch_trainer)
    batches = prepare(twin, raw, much, Dice(network))
    if after_step:
        batches = told(batches, after_step)
    yield from compare_training(pair, batches, mistake)


def told(
    batches: Iterator[Batch], after_step: Callable[[int], None]
) -> Iterator[Batch]:
    """Yield batches; the one after a step is asked for when the step is done."""
    for number, batch in enumerate(batches):
        if number:
            after_step(number)
        yield batch


def scaled_by(recipe: Recipe, images: np.ndarray) -> np.ndarray:
    """Return raw images after a recipe's transforms that are not random."""
    scaled: Any = images
    for layer in recipe.transform():
        if not build.is_random(layer):
            scaled = layer(scaled)
    return keras.ops.convert_to_numpy(scaled)


def quick_draws() -> contextlib.AbstractContextManager[Any]:
    """Draw random numbers in an order that JAX compiles faster; same distribution."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.threefry_partitionable(False)


def shake(layouts: list[Layout]) -> None:
    """Move biases, scales and statistics off the zeros and ones they start from."""
    # Else a bias in the wrong place, or an inference without statistics, would go
    # unseen.
    dice = np.random.default_rng(1)
    for layout in layouts:
        for name, _ in layout.names:
            variable = getattr(layout.layer, name)
            if len(variable.shape) == 1:
                start = keras.ops.convert_to_numpy(variable)
                variable.assign(start + dice.uniform(-0.05, 0.05, start.shape))


def forget_order(layouts: list[Layout], module: nn.Module) -> None:
    """Make the mistake `flatten_order` in the weights that were carried over."""
    for layout, other in zip(layouts, weights.learning(module), strict=True):
        if layout.flattened:
            kernel = keras.ops.convert_to_numpy(layout.layer.kernel)
            with torch.no_grad():
                other.weight.copy_(torch.from_numpy(kernel.T.copy()))


def check_activations(network: keras.Model) -> None:
    """Raise `UsageError` for an activation as a layer, but after BatchNorm."""
    # A layer and its activation are compared as one, and ReLU's kinks by layer.
    known = [activation_after(layer) for layer in network.layers]
    for layer in network.layers:
        alone = isinstance(layer, keras.layers.ReLU | keras.layers.Activation)
        if alone and layer not in known:
            raise UsageError(
                f"layer {layer.name!r} can't be compared: write the activation into "
                'the layer before it, as activation="relu".'
            )
