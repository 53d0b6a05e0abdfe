"""The command `kerascnn learns`: at which step does a network stop guessing?

Lecture 3 has networks that stay at chance, and others that learn since one thing was
changed. Whole runs would show it in hours, their first steps in minutes.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from kerascnn import UsageError, command_line
from kerascnn import recipe as recipes

if TYPE_CHECKING:
    from kerascnn.data import DataSet
    from kerascnn.recipe import Recipe

Names = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RECIPE")
]
Integer = Annotated[int, tyro.conf.arg(metavar="N")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]

# Accuracy is looked at over so many steps. Of guesses on 20 batches of 64 images and
# ten classes, the accuracy's standard deviation is 0.8 points: 20 % is no accident.
WINDOW = 20
CHANCES = 2


@dataclasses.dataclass(frozen=True)
class Start:
    """How the training of one network began.

    Args:
        learned: The step, from 1, by which it got twice as many training images right
            as guessing would; `None` if it never did.
        steps: Steps it trained: no more than that.
        accuracy: Over the last 20 steps, 0 to 1.
        crossentropy: Over the same; guessing has the logarithm of the classes' number.
        seconds: What that took, compilation included.
    """

    learned: int | None
    steps: int
    accuracy: float
    crossentropy: float
    seconds: float


@dataclasses.dataclass
class Learns:
    """Train recipes until they are right twice as often as guessing, or for so long."""

    recipe: Names
    """Which recipes to train."""
    seeds: Integer = 3
    """Runs of each, from seeds 0 to N - 1."""
    steps: Integer = 400
    """Steps after which it is given up."""
    batch_size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Images a step (default: the recipe's)."""
    data: Literal["auto", "full", "sample"] = "auto"
    """Which images, as `kerascnn run` has it."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    add: bool = False
    """Take what was found into the cookbook."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        command_line.check_positive(self, "seeds", "steps", "batch_size")
        if not self.recipe:
            raise UsageError("expected recipes: `kerascnn learns RECIPE...`.")
        for name in self.recipe:
            recipes.check_name(name)

    def __call__(self) -> None:
        from kerascnn import data
        from kerascnn.report import cookbook, records
        from kerascnn.training import environment

        if self.add and not records.FOLDER.exists():
            raise UsageError(f"--add: there is no {records.FOLDER}: use a checkout.")
        found = []
        for name in self.recipe:
            recipe = recipes.load(name)
            dataset = data.load(recipe.dataset, self.data, self.data_dir)
            if self.add and dataset.sample:
                raise UsageError("--add: the cookbook is of full sets, not samples.")
            size = self.batch_size or recipe.batch_size
            fingerprint = recipes.fingerprint(recipes.describe(recipe))
            for seed in range(self.seeds):
                say = _progress(name, seed, self.steps)
                start = begin(recipe, dataset, seed, self.steps, size, say)
                record = {"recipe": name, "fingerprint": fingerprint, "seed": seed}
                record |= {"batch_size": size, "at_most": self.steps}
                record |= dataclasses.asdict(start)
                record["data"] = {"name": dataset.name, "sha256": dataset.hash}
                here = environment.describe()
                del here["command"]
                found.append(record | {"environment": here})
                if self.add:  # each at once: what took minutes is not to be lost
                    records.add_start(found[-1])
        if self.add:
            cookbook.Cookbook()()
        if self.json:
            print(json.dumps(found))
        else:
            show(found)


def begin(
    recipe: Recipe,
    dataset: DataSet,
    seed: int,
    steps: int,
    batch_size: int,
    say: Callable[[int, float, float], None] | None = None,
) -> Start:
    """Train a recipe until it is right twice as often as guessing.

    Args:
        recipe: The recipe; its transforms, initial weights and optimiser hold.
        dataset: Its images.
        seed: Decides initial weights, order and random draws.
        steps: Steps after which it is given up.
        batch_size: Images a step.
        say: Called after every 20 steps with the step, accuracy and cross-entropy.
    """
    import keras

    from kerascnn import data
    from kerascnn.training import models, trainer

    began = time.perf_counter()
    keras.utils.clear_session()
    trainer.set_seed(seed)
    model, _ = models.build(recipe, dataset.shape)
    if keras.backend.backend() == "jax":
        from kerascnn.acceleration import accelerate

        model = accelerate(model)
    trainer.compile_model(model, recipe)
    split, per_epoch = dataset.train, len(dataset.train) // batch_size
    if per_epoch == 0:
        raise UsageError(f"{len(split)} images make no batch of {batch_size}.")
    learned, step = None, 0
    accuracies: list[float] = []
    losses: list[float] = []
    while step < steps and learned is None:
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = data.order(seed, epoch, len(split))
        chosen = order[place * batch_size : (place + 1) * batch_size]
        logs: Any = model.train_on_batch(
            split.images[chosen], split.labels[chosen], return_dict=True
        )
        accuracies.append(float(logs["accuracy"]))
        losses.append(float(logs["crossentropy"]))
        step += 1
        if step % WINDOW == 0:
            accuracy = statistics.fmean(accuracies[-WINDOW:])
            if accuracy >= CHANCES / len(dataset.classes):
                learned = step
            if say:
                say(step, accuracy, statistics.fmean(losses[-WINDOW:]))
    return Start(
        learned,
        step,
        round(statistics.fmean(accuracies[-WINDOW:]), 4),
        round(statistics.fmean(losses[-WINDOW:]), 4),
        round(time.perf_counter() - began, 1),
    )


def _progress(name: str, seed: int, steps: int) -> Callable[[int, float, float], None]:
    def say(step: int, accuracy: float, crossentropy: float) -> None:
        command_line.say(
            f"{name}, seed {seed}: step {step}/{steps}  accuracy {accuracy:6.2%}"
            f"  crossentropy {crossentropy:.4f}"
        )

    return say


def show(found: list[dict[str, Any]]) -> None:
    """Print a row for each run."""
    table = Table(
        title=f"right {CHANCES} times as often as guessing, over {WINDOW} steps"
    )
    table.add_column("recipe", no_wrap=True)
    for column in ("seed", "batch", "learned by step", "accuracy", "crossentropy"):
        table.add_column(column, justify="right")
    for record in found:
        given_up = f"not in {record['steps']}"
        table.add_row(
            record["recipe"],
            str(record["seed"]),
            str(record["batch_size"]),
            str(record["learned"] or given_up),
            f"{record['accuracy']:.2%}",
            f"{record['crossentropy']:.4f}",
        )
    Console(file=sys.stdout).print(table)
