"""One training run, from a recipe to a finished run folder."""

from __future__ import annotations

import dataclasses
import random
import sys
import time
from types import ModuleType
from typing import TYPE_CHECKING

import keras
import numpy as np

from kerascnn import UsageError, data, runs, spare_tensorflow
from kerascnn import recipe as recipes
from kerascnn.training import environment, fit, models
from kerascnn.training.callbacks import Progress, Record
from kerascnn.training.overrides import Overrides
from kerascnn.training.plan import Plan

if TYPE_CHECKING:
    from kerascnn.data import DataSet, Split
    from kerascnn.recipe import Recipe

# A run on the bundled sample is a taste, not a result: it need not go on for hours.
SAMPLE_EPOCHS = 10


def train(recipe: Recipe, overrides: Overrides | None = None) -> runs.Run:
    """Train a recipe and write its run folder.

    The test set is evaluated after every epoch, for the curve, and decides nothing:
    the result is the last epoch's.

    Args:
        recipe: The recipe.
        overrides: Changes to it; none by default.

    Returns:
        The finished run.

    Raises:
        UsageError: The data are not to be had, or an override does not fit.

    Example:
        >>> from kerascnn import recipe, training
        >>> options = training.Overrides(data="sample", epochs=1)
        >>> run = training.train(recipe.load("fashion_mlp"), options)
        >>> run.result["test_accuracy"]
    """
    from kerascnn.report import plots, summary

    spare_tensorflow()
    overrides = overrides or Overrides()
    dataset = data.load(
        recipe.dataset, overrides.data, overrides.data_dir, overrides.cache_dir
    )
    train_split, test_split = (
        _limited(split, overrides.limit) for split in (dataset.train, dataset.test)
    )
    plan = _plan(recipe, overrides, dataset)
    steps = plan.steps(len(train_split))
    if steps == 0:
        raise UsageError(
            f"{len(train_split)} training images make no batch of {plan.batch_size}, "
            f"and {recipe.name} drops a smaller last one; choose a smaller "
            "--batch-size."
        )

    engine = choose_engine(overrides.engine, recipe, train_split, test_split)

    set_seed(overrides.seed)
    keras.config.set_dtype_policy(overrides.precision)
    model, kept = models.build(recipe, dataset.shape)
    if overrides.accelerate and keras.backend.backend() == "jax":
        from kerascnn.acceleration import accelerate

        model = accelerate(model)
    compile_model(model, recipe, overrides.learning_rate)

    run = runs.Run.create(recipe.name, overrides.out)
    config = _config(recipe, overrides, dataset, train_split, test_split, plan)
    run.write_config(config | {"engine": engine.__name__.rpartition(".")[2]})
    if dataset.notice:
        print(dataset.notice, flush=True)

    progress = Progress(plan.epochs, steps)
    images = min(steps * plan.batch_size, len(train_split))
    callbacks = [*recipe.callbacks(), Record(run, images), progress]
    start = time.perf_counter()
    try:
        engine.fit(model, train_split, test_split, plan, callbacks)
    finally:
        progress.close()
    seconds = time.perf_counter() - start

    save_model(kept, run)
    last = run.metrics[-1]
    run.write_result(
        {
            "epochs": last["epoch"],
            "test_accuracy": last["test_accuracy"],
            "test_crossentropy": last["test_crossentropy"],
            "train_accuracy": last["accuracy"],
            "seconds": round(seconds, 3),
            "peak_memory_bytes": environment.peak_memory(),
        }
    )
    plots.curve(run)
    print(summary.text(run), flush=True)
    return run


def choose_engine(
    wanted: str, recipe: Recipe, train_split: Split, test_split: Split
) -> ModuleType:
    """Return the module whose `fit` trains a recipe, `training.epoch` or `.fit`.

    Args:
        wanted: `"epoch"`, `"fit"`, or `"auto"`: `epoch` on JAX, where the images fit
            the device's memory and no callback needs a batch's logs.
        recipe: Whose callbacks to look at.
        train_split: The training set.
        test_split: The test set.

    Raises:
        UsageError: `"epoch"` is wanted on another backend than JAX.
    """
    if keras.backend.backend() != "jax":
        if wanted == "epoch":
            raise UsageError(
                f"--engine epoch needs JAX, and the backend is "
                f"{keras.backend.backend()}: leave the engine out, or pass "
                "--backend jax."
            )
        return fit
    from kerascnn.training import epoch

    if wanted == "auto" and not epoch.fits(train_split, test_split):
        print("The images do not fit the device's memory twice: training with `fit`.")
        return fit
    picky = [c for c in recipe.callbacks() if epoch.wants_batches(c)]
    if wanted != "fit" and picky:
        name = type(picky[0]).__name__
        print(f"The callback {name} wants each batch's logs: training with `fit`.")
        return fit
    return fit if wanted == "fit" else epoch


def set_seed(seed: int) -> None:
    """Seed everything that Keras draws seeds from: initialisers and random layers.

    `keras.utils.set_random_seed` does the same, but imports TensorFlow wherever it is
    installed, whichever backend is in use.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - Keras and its users draw from it
    if keras.backend.backend() == "tensorflow":
        sys.modules["tensorflow"].random.set_seed(seed)
    elif keras.backend.backend() == "torch":
        sys.modules["torch"].manual_seed(seed)


def compile_model(
    model: keras.Model, recipe: Recipe, learning_rate: float | None = None
) -> None:
    """Give a model the recipe's optimiser, the course's loss, and the metrics.

    The loss, softmax cross-entropy on logits plus any L2 penalty, is what training
    lowers. The metric `crossentropy` leaves the penalty out, as PyTorch's loss does
    when its optimiser decays the weights, so rungs with and without it compare.

    Args:
        model: A model that returns logits.
        recipe: Whose optimiser to take.
        learning_rate: Replaces the optimiser's own.
    """
    optimizer = recipe.optimizer()
    if learning_rate is not None:
        optimizer.learning_rate = learning_rate
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            keras.metrics.SparseCategoricalCrossentropy(
                from_logits=True, name="crossentropy"
            ),
        ],
    )


def save_model(model: keras.Model, run: runs.Run) -> None:
    """Write `model.keras`: plain Keras, raw uint8 images in, logits out."""
    partial = run.folder / ".partial.keras"
    model.save(partial)
    partial.replace(run.folder / "model.keras")


def _plan(recipe: Recipe, overrides: Overrides, dataset: DataSet) -> Plan:
    epochs = recipe.epochs
    if dataset.sample:
        epochs = min(epochs, SAMPLE_EPOCHS)
    return Plan(
        epochs=overrides.epochs or epochs,
        batch_size=overrides.batch_size or recipe.batch_size,
        seed=overrides.seed,
        drop_last=recipe.drop_last,
    )


def _limited(split: Split, limit: int | None) -> Split:
    return dataclasses.replace(
        split, images=split.images[:limit], labels=split.labels[:limit]
    )


def _config(
    recipe: Recipe,
    overrides: Overrides,
    dataset: DataSet,
    train_split: Split,
    test_split: Split,
    plan: Plan,
) -> dict:
    return {
        "recipe": recipe.name,
        "fingerprint": recipes.fingerprint(recipe),
        "description": recipes.describe(recipe),
        "course": dataclasses.asdict(recipe.course),
        "overrides": overrides.changed,
        **dataclasses.asdict(plan),
        "learning_rate": overrides.learning_rate,
        "precision": overrides.precision,
        "accelerate": overrides.accelerate,
        "data": {
            "name": dataset.name,
            "version": dataset.version,
            "sample": dataset.sample,
            "source": dataset.source,
            "sha256": dataset.hash,
            "classes": list(dataset.classes),
            "train_images": len(train_split),
            "test_images": len(test_split),
        },
        "environment": environment.describe(),
    }
