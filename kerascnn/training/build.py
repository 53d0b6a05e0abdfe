"""A recipe's two models, with shared weights: one to train, one to keep."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kerascnn import UsageError, optim
from kerascnn import recipe as recipes
from kerascnn.data.decoding import RESIZING
from kerascnn.engine import losses, recorder
from kerascnn.process import settings
from kerascnn.process.backend import spare_tensorflow
from kerascnn.text import show
from kerascnn.training import fine_tuning

if TYPE_CHECKING:
    from kerascnn.data import DataSet
    from kerascnn.recipe import Recipe
    from kerascnn.training.options import Overrides


def build(
    recipe: Recipe, shape: tuple[int, int, int]
) -> tuple[keras.Model, keras.Model]:
    """Build a recipe's two models, to train and to keep, which share their weights.

    Both take raw images, uint8, `(batch, height, width, channels)`, and return logits,
    `(batch, classes)`. The first holds the whole transform, whose random layers act in
    training only; the second leaves those out, so that it is made of Keras's own layers
    alone and loads without this package.
    """
    inner = network(recipe)
    transform = recipe.transform()
    image = keras.Input(shape, dtype="uint8", name="image")

    def chain(layers: list[keras.layers.Layer], name: str) -> keras.Model:
        x = image
        for layer in layers:
            x = layer(x)
        # Keras would find out in the first step, if at all.
        given, taken = x.shape[1:], inner.input_shape[1:]
        if any(t not in (None, g) for g, t in zip(given, taken, strict=True)):
            raise ValueError(f"it takes {taken}")
        return keras.Model(image, inner(x), name=name)

    fixed = [layer for layer in transform if not is_random(layer)]
    return chain(transform, f"{recipe.name}_training"), chain(fixed, recipe.name)


def network(recipe: Recipe) -> keras.Model:
    """Make a recipe's network alone.

    Raises:
        UsageError: It has another number of parameters than the recipe states.
    """
    made = recipe.network()
    recipes.check_parameters(recipe, made)
    return made


def is_random(layer: keras.layers.Layer) -> bool:
    """Whether a layer of a transform acts in training only."""
    return type(layer).__name__.startswith("Random")


def without_random(recipe: Recipe) -> Recipe:
    """Return a recipe without its random transforms."""
    fixed = [layer for layer in recipe.transform() if not is_random(layer)]
    return dataclasses.replace(recipe, transform=lambda: fixed)


def weights_hash(model: keras.Model) -> str:
    """Return the SHA-256 of a model's weights: equal only where all bits are."""
    from keras import ops

    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).data)
    return digest.hexdigest()


# Images that a recipe's `adapt` is given.
ADAPTED = 1000


def adapt(recipe: Recipe, kept: keras.Model, images: np.ndarray) -> None:
    """Let a recipe set weights that follow from training images.

    Args:
        recipe: The recipe.
        kept: The model to keep, as `build` returns it, or its network.
        images: The raw training images, uint8.
    """
    if recipe.adapt is None:
        return
    *before, network = kept.layers
    scaled: Any = images[:ADAPTED]
    for layer in before[1:]:
        scaled = layer(scaled)
    recipe.adapt(network, keras.ops.convert_to_numpy(scaled))


class Epochs(keras.callbacks.Callback):
    """Tells the layers of a model's transform that count epochs which one begins.

    Those are the layers with a method `begin_epoch`.
    """

    needs_no_state = True

    def __init__(self, model: keras.Model):
        super().__init__()
        self.layers = [x for x in model.layers if hasattr(x, "begin_epoch")]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for layer in self.layers:
            layer.begin_epoch(epoch)


def compiled(
    recipe: Recipe,
    dataset: DataSet,
    overrides: Overrides,
    steps: int = recipes.STEPS,
    class_weights: Sequence[float] | None = None,
) -> tuple[keras.Model, keras.Model]:
    """Build the model to train, compiled as the options say, and the model to keep.

    `steps` are those of the whole run.
    """
    set_seed(overrides.seed)
    try:
        with settings.keras_defaults(overrides.precision):
            model, kept = build(recipe, dataset.shape)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(
            f"{recipe.name}'s network does not take the images of {dataset.name}, "
            f"{dataset.shape}: {error}"
        ) from error
    logits, classes = kept.output_shape[-1], len(dataset.classes)
    if logits > classes:
        show(
            f"{recipe.name}'s network has {logits} logits for {classes} classes: the "
            "others learn to stay low."
        )
    if logits < classes:
        raise UsageError(
            f"{recipe.name}'s network has {logits} logits, and {dataset.name} has "
            f"{classes} classes: give its last layer {classes} units."
        )
    fine_tuning.freeze(recipe, kept, overrides.freeze)
    if overrides.accelerate and keras.backend.backend() == "jax":
        from kerascnn.acceleration import accelerate

        model = accelerate(model)
    if overrides.label_smoothing is not None:
        smoothing = overrides.label_smoothing
        recipe = dataclasses.replace(recipe, label_smoothing=smoothing)
    compile_model(model, recipe, overrides.learning_rate, steps, class_weights)
    return model, kept


def image_size(recipe: Recipe) -> tuple[int, int] | None:
    """Return the height and width that a recipe's transform begins by resizing to."""
    # Images of unequal size can be batched only once they have it, so they are brought
    # to it where they are decoded, by the same rule.
    first = next(iter(recipe.transform()), None)
    if not isinstance(first, keras.layers.Resizing):
        return None
    rule = first.crop_to_aspect_ratio, first.antialias, first.interpolation
    if rule != (True, True, "bilinear"):
        raise UsageError(
            f"{recipe.name}'s transform begins with a Resizing of another kind than "
            f"{RESIZING}, by which images are resized as they are decoded: write it so."
        )
    return first.height, first.width


def set_seed(seed: int) -> None:
    """Seed everything that Keras draws seeds from: initialisers and random layers."""
    # `keras.utils.set_random_seed` alone would import TensorFlow wherever it is
    # installed, whichever backend is in use.
    spare_tensorflow()
    keras.utils.set_random_seed(seed)


def compile_model(
    model: keras.Model,
    recipe: Recipe,
    rate: float | None = None,
    steps: int = recipes.STEPS,
    class_weights: Sequence[float] | None = None,
) -> None:
    """Give a model the recipe's optimiser, the course's loss, and the metrics.

    The loss, softmax cross-entropy on logits plus any L2 penalty, is what training
    lowers. The metric `crossentropy` leaves the penalty out, as PyTorch's loss does
    when its optimiser decays the weights, and the smoothing of labels, so rungs with
    and without them compare.
    """
    optimizer = recipe.optimizer(steps)
    if isinstance(optimizer, optim.Optax):
        optimizer.check_backend()
    if rate is not None:
        if optim.follows_schedule(optimizer):
            raise UsageError(
                f"--learning-rate: {recipe.name}'s optimiser follows a schedule of its "
                "own: change the schedule in the recipe."
            )
        optimizer.learning_rate = rate
    loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if recipe.label_smoothing or class_weights:
        loss = losses.SmoothedCrossentropy(recipe.label_smoothing, class_weights)
    model.compile(
        optimizer=optimizer,
        loss=loss,
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(
                from_logits=True, name="crossentropy"
            ),
        ],
    )


def images_looked_at(shape: Sequence[int]) -> int:
    """Return of how many training images, of `shape`, a record has layers' answers."""
    return recorder.sample(shape).size
