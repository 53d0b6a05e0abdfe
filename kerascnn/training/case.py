"""What a run trains, and on what: options checked, images loaded, models built."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import TYPE_CHECKING

import keras

from kerascnn import UsageError, data, optim
from kerascnn.data import limited
from kerascnn.data.batches import default_workers
from kerascnn.engine import fit
from kerascnn.engine.choice import choose_engine
from kerascnn.engine.plan import Plan, for_sample
from kerascnn.process import determinism, hosts
from kerascnn.training import build, images, resume
from kerascnn.training.options import Overrides

if TYPE_CHECKING:
    from kerascnn.data import DataSet, Split
    from kerascnn.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Case:
    """What a run trains, and on what."""

    images: images.Images
    overrides: Overrides
    train: Split
    test: Split  # what the run is evaluated on, which may be held out of the training
    plan: Plan
    engine: ModuleType
    model: keras.Model
    kept: keras.Model
    callbacks: list[keras.callbacks.Callback]
    class_weights: list[float] | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe, made to take the images."""
        return self.images.recipe

    @property
    def dataset(self) -> DataSet:
        """The whole set."""
        return self.images.dataset

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return self.plan.steps(len(self.train))

    @property
    def held_out(self) -> bool:
        """Whether the run is evaluated on images held out of the training set."""
        return self.overrides.validation is not None

    @property
    def evaluated(self) -> str:
        """What the images of `test` are called in records."""
        return "validation" if self.held_out else "test"


def opened(
    recipe: Recipe, overrides: Overrides
) -> tuple[images.Images, Overrides, Split, Split, Plan]:
    """Check what can be and load the images; return what a run's models are built for.

    The data set and the recipe that takes it, options with absolute paths, the images
    to train on and those to evaluate on, and how to go through them.
    """
    backend = keras.backend.backend()
    if overrides.backend not in (None, backend):
        raise UsageError(
            f"backend {overrides.backend!r}: Keras runs on {backend} already; set the "
            "environment variable KERAS_BACKEND before Keras is imported."
        )
    if overrides.deterministic:
        determinism.require()
    overrides = resume.absolute(overrides)
    found = images.loaded(recipe, overrides)
    recipe, dataset = found.recipe, found.dataset
    train, test = _splits(dataset, overrides)
    plan = plan_of(recipe, overrides, dataset)
    if plan.batch_size > len(train):
        plan = dataclasses.replace(plan, batch_size=len(train))
    if plan.batch_size % plan.accumulate:
        raise UsageError(
            f"--accumulate {plan.accumulate}: a batch of {plan.batch_size} images does "
            "not fall into so many equal parts."
        )
    return found, overrides, train, test, plan


def case_of(recipe: Recipe, overrides: Overrides) -> Case:
    """Check what can be, load the images, and build the models."""
    found, overrides, train, test, plan = opened(recipe, overrides)
    recipe, dataset = found.recipe, found.dataset
    weights = images.class_weights(dataset, train) if overrides.class_weights else None
    engine = choose_engine(overrides.engine, recipe, train, test)
    if plan.accumulate > 1 and engine is fit:
        raise UsageError(
            "--accumulate is for the epoch engine, which is JAX's, and this run trains "
            "with Keras's `fit`: make the batch smaller instead, with --batch-size."
        )
    if plan.rematerialize and keras.backend.backend() != "jax":
        raise UsageError(
            "--remat is JAX's, and this run computes on "
            f"{keras.backend.backend()}: leave it out, or pass --backend jax."
        )
    if engine is fit and hosts.number() > 1:
        raise UsageError(
            "several processes are for the engines epoch and stream, and this run "
            "trains with Keras's `fit`, in one: leave out --coordinator, or what makes "
            "it take `fit`."
        )
    if (plan.devices or 1) > 1 and keras.backend.backend() != "jax":
        raise UsageError(
            "--devices is JAX's, and this run computes on "
            f"{keras.backend.backend()}: leave it out, or pass --backend jax."
        )
    steps = plan.steps(len(train)) * plan.epochs
    model, kept = build.compiled(recipe, dataset, overrides, steps, weights)
    build.adapt(recipe, kept, train.images)
    callbacks = recipe.callbacks()
    if overrides.budget is not None:
        own = dataclasses.replace(overrides, epochs=None)
        of = plan_of(recipe, own, dataset).epochs
        callbacks = optim.stretched(callbacks, plan.epochs, of)
    optim.check_callbacks(model.optimizer, callbacks)
    models = model, kept
    return Case(
        found, overrides, train, test, plan, engine, *models, callbacks, weights
    )


def plan_of(recipe: Recipe, overrides: Overrides, dataset: DataSet) -> Plan:
    """Return how a run goes through its images."""
    epochs, batch_size = recipe.epochs, recipe.batch_size
    if dataset.sample:
        epochs, batch_size = for_sample(epochs, batch_size, len(dataset.train))
    return Plan(
        epochs=overrides.epochs or epochs,
        batch_size=overrides.batch_size or batch_size,
        seed=overrides.seed,
        drop_last=recipe.drop_last,
        accumulate=overrides.accumulate,
        rematerialize=overrides.remat,
        workers=default_workers() if overrides.workers is None else overrides.workers,
        devices=overrides.devices,
    )


def fitted(recipe: Recipe, overrides: Overrides, plan: Plan) -> dict[str, int]:
    """Return the recipe's own values of what a sample has changed, by option."""
    names = {"epochs": "epochs", "batch-size": "batch_size"}
    return {
        option: getattr(recipe, name)
        for option, name in names.items()
        if getattr(overrides, name) is None
        and getattr(plan, name) != getattr(recipe, name)
    }


def _splits(dataset: DataSet, overrides: Overrides) -> tuple[Split, Split]:
    """Return the images to train on and those to evaluate on."""
    train_split, test_split = dataset.train, dataset.test
    if overrides.validation:
        train_split, test_split = data.split(
            train_split, overrides.validation, overrides.seed
        )
    return (
        limited(train_split, overrides.limit),
        limited(test_split, overrides.limit),
    )
