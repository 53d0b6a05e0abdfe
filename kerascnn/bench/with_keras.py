"""The contenders that are made with Keras: this package's engine, and stock Keras."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import keras
import numpy as np

from kerascnn import data
from kerascnn import recipe as recipes
from kerascnn.bench import ablation
from kerascnn.bench.sets import repeated
from kerascnn.data import Split
from kerascnn.engine.plan import Plan
from kerascnn.process import memory, settings
from kerascnn.training import build as building

if TYPE_CHECKING:
    from kerascnn.recipe import Recipe

# Takes a number of steps (or epochs) and returns when they are done.
Work = Callable[[int], None]


class SameBatch(keras.utils.PyDataset):
    """One batch, over and over: what `fit` costs without any loading of data."""

    def __init__(self, batch: Split, steps: int):
        super().__init__()
        self.batch, self.steps = batch, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batch.images, self.batch.labels


@settings.computing()
def build(contender: str, name: str, batch: int, images: int, random: bool) -> Work:
    """Build the contender `kerascnn` or `keras-BACKEND`, as `contenders.build` does."""
    ours = contender == "kerascnn" or ablation.switch_off(contender)
    building.set_seed(0)
    recipe = recipes.load(name)
    if not random:
        recipe = building.without_random(recipe)
    if images:
        train = repeated(data.load(recipe.dataset).train, images)
        plan = Plan(epochs=1, batch_size=batch, seed=0, drop_last=True)
        work = epochs(recipe, train, plan, "epoch" if ours else "fit")
    else:
        steps = kerascnn_steps if ours else keras_steps
        work = steps(recipe, scaled_batch(recipe, batch))
    return settings.computing()(work)


def scaled_batch(recipe: Recipe, batch: int) -> Split:
    """Return a batch as a recipe's fixed transforms leave it, float32."""
    first = repeated(data.load(recipe.dataset).train, batch)
    images = first.images
    for layer in building.without_random(recipe).transform():
        images = keras.ops.convert_to_numpy(layer(images))
    return Split(images, first.labels)


def kerascnn_steps(recipe: Recipe, batch: Split) -> Work:
    """Steps of this package's engine on JAX, on scaled images."""
    import jax

    from kerascnn.acceleration import accelerate
    from kerascnn.engine import epoch, finite, placement

    model = accelerate(building.network(recipe))
    building.compile_model(model, recipe)
    model.optimizer.build(model.trainable_variables)
    counter = finite.index(model.optimizer)
    mesh = placement.mesh(model, len(batch))
    if mesh is not None:
        memory.keep_less()
    step = epoch.training_function(model, mesh)
    state = placement.copied(mesh, epoch.read_state(model))
    images, labels = placement.copied(mesh, (batch.images, batch.labels))
    chosen = placement.cut(mesh, np.arange(len(labels), dtype=np.int32)[None])

    def work(number: int) -> None:
        nonlocal state
        for _ in range(number):
            finite.check(state["optimizer"][counter])  # waits, as the engine does
            state = step(state, images, labels, chosen)
        jax.block_until_ready(state)

    return work


def keras_steps(recipe: Recipe, batch: Split) -> Work:
    """Steps of stock Keras's `fit` on the backend in use, on scaled images."""
    model = building.network(recipe)
    building.compile_model(model, recipe)
    return lambda number: model.fit(
        SameBatch(batch, number), epochs=1, shuffle=False, verbose=0
    )


def epochs(recipe: Recipe, train: Split, plan: Plan, engine: str) -> Work:
    """Epochs from raw images, by one of this package's engines or stock `fit`."""
    model, _ = building.build(recipe, train.images.shape[1:])
    if engine == "epoch":
        from kerascnn.acceleration import accelerate
        from kerascnn.engine import epoch as module

        model = accelerate(model)
    else:
        from kerascnn.engine import fit as module
    building.compile_model(model, recipe)
    # The smallest test set there is: its evaluation is not what is timed.
    test = Split(train.images[:1], train.labels[:1])
    begun = 0

    def work(number: int) -> None:
        nonlocal begun
        begun += number
        chosen = dataclasses.replace(plan, epochs=begun, initial_epoch=begun - number)
        module.fit(model, train, test, chosen)

    return work
