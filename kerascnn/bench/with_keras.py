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

OURS = "kerascnn"
CHANNELS = 8  # of which a GPU's matrix units take bfloat16
# Takes a number of steps (or epochs) and returns when they are done.
Work = Callable[[int], None]


@dataclasses.dataclass
class Steps:
    """Takes steps when it is called, as `Work` does."""

    take: Work
    plan: Callable[[], int | None]

    def __call__(self, number: int) -> None:
        self.take(number)

    @property
    def planned(self) -> int | None:
        """The bytes that XLA plans for a step, on all devices, besides its arguments.

        To be asked after the first step, which compiles.
        """
        return self.plan()


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
def build(
    contender: str,
    name: str,
    batch: int,
    images: int,
    random: bool,
    devices: int | None = None,
) -> Work:
    """Build the contender `kerascnn` or `keras-BACKEND`, as `contenders.build` does.

    `kerascnn-bfloat16` computes in mixed_bfloat16; `kerascnn-bfloat16-padded` on images
    whose channels are padded to eight, because XLA pads those of float16 alone.
    """
    if contender in ("kerascnn-bfloat16", "kerascnn-bfloat16-padded"):
        with settings.keras_defaults("mixed_bfloat16"):
            padded = contender.endswith("padded")
            return _build(OURS, name, batch, images, random, padded=padded)
    return _build(contender, name, batch, images, random, devices)


def _build(
    contender: str,
    name: str,
    batch: int,
    images: int,
    random: bool,
    devices: int | None = None,
    padded: bool = False,
) -> Work:
    ours = contender == OURS or ablation.switch_off(contender)
    building.set_seed(0)
    recipe = recipes.load(name)
    recipe = with_channels(recipe, CHANNELS) if padded else recipe
    if not random:
        recipe = building.without_random(recipe)
    if images:
        train = repeated(data.load(recipe.dataset).train, images)
        plan = Plan(epochs=1, batch_size=batch, seed=0, drop_last=True)
        work = epochs(recipe, train, plan, "epoch" if ours else "fit")
    else:
        scaled = scaled_batch(recipe, batch)
        if ours:
            return kerascnn_steps(recipe, scaled, devices)
        work = keras_steps(recipe, scaled)
    return settings.computing()(work)


def with_channels(recipe: Recipe, channels: int) -> Recipe:
    """Return a recipe whose scaled images have so many channels, the last ones zero."""
    height, width, own = recipe.network().input_shape[1:]

    def network() -> keras.Model:
        image = keras.Input((height, width, channels))
        return keras.models.clone_model(recipe.network(), input_tensors=image)

    def transform() -> list[keras.layers.Layer]:
        # The last two axes of images whose channels are the last.
        zeros = (0, 0), (0, channels - own)
        pad = keras.layers.ZeroPadding2D(zeros, data_format="channels_first")
        return [*recipe.transform(), pad]

    return dataclasses.replace(
        recipe, network=network, transform=transform, parameters=0
    )


def scaled_batch(recipe: Recipe, batch: int) -> Split:
    """Return a batch as a recipe's fixed transforms leave it, float32."""
    first = repeated(data.load(recipe.dataset).train, batch)
    images = first.images
    for layer in building.without_random(recipe).transform():
        images = keras.ops.convert_to_numpy(layer(images))
    return Split(images, first.labels)


def kerascnn_steps(recipe: Recipe, batch: Split, devices: int | None = None) -> Work:
    """Steps of this package's engine on JAX, on scaled images."""
    import jax

    from kerascnn.acceleration import accelerate
    from kerascnn.engine import epoch, finite, placement

    model = accelerate(building.network(recipe))
    building.compile_model(model, recipe)
    model.optimizer.build(model.trainable_variables)
    counter = finite.index(model.optimizer)
    mesh = placement.mesh(model, len(batch), devices)
    if mesh is not None:
        memory.keep_less()
    step = epoch.training_function(model, mesh)
    state = placement.copied(mesh, epoch.read_state(model))
    images, labels = placement.copied(mesh, (batch.images, batch.labels))
    chosen = placement.cut(mesh, np.arange(len(labels), dtype=np.int32)[None])

    @settings.computing()
    def take(number: int) -> None:
        nonlocal state
        for _ in range(number):
            finite.check(state["optimizer"][counter])  # waits, as the engine does
            state = step(state, images, labels, chosen)
        jax.block_until_ready(state)

    def plan() -> int | None:
        planned = step.planned(state, images, labels, chosen)
        return planned and planned.besides * (mesh.size if mesh else 1)

    return Steps(take, plan)


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

        plan = dataclasses.replace(plan, devices=1)  # as Keras's own
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
