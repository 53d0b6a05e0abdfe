"""The command `kerascnn learns`: at which step does a network stop guessing?

Lecture 3 has networks that stay at chance, and others that learn since one thing was
changed. Whole runs would show it in hours, their first steps in minutes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from kerascnn import UsageError, describe, text
from kerascnn import recipe as recipes
from kerascnn.process import settings
from kerascnn.training.options import Folder, Integer

if TYPE_CHECKING:
    from kerascnn.data import DataSet
    from kerascnn.recipe import Recipe

Names = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RECIPE")
]
Number = Annotated[int, tyro.conf.arg(metavar="N")]

# Accuracy is looked at over so many steps.
WINDOW = 20
# A guesser's accuracy would be this many standard deviations off once in a million.
DEVIATIONS = 5


@dataclasses.dataclass(frozen=True)
class Start:
    """How one training began; accuracy and cross-entropy are over its last 20 steps."""

    learned: int | None
    steps: int
    accuracy: float
    crossentropy: float | None
    seconds: float


@dataclasses.dataclass
class Learns:
    """Train recipes until they are right twice as often as guessing."""

    recipe: Names
    """Which recipes to train."""
    seeds: Number = 3
    """Runs of each, from seeds 0 to N - 1."""
    steps: Number = 400
    """Steps after which a network is given up."""
    batch_size: Integer = None
    """Images a step (default: the recipe's)."""
    data: Literal["auto", "full", "sample"] = "auto"
    """Which images, as `kerascnn run` has it."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    add: bool = False
    """Keep what was found for the cookbook, which `kerascnn cookbook` renders."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        text.check_positive(self, "seeds", "steps", "batch_size")
        if not self.recipe:
            raise UsageError("expected recipes: `kerascnn learns RECIPE...`.")
        for name in self.recipe:
            recipes.check_name(name)

    def __call__(self) -> None:
        from kerascnn import data
        from kerascnn.process import estimate, prepare
        from kerascnn.process.signals import Signals
        from kerascnn.report import records
        from kerascnn.training import build

        prepare.prepare_process()
        chosen = []
        for recipe in map(recipes.load, self.recipe):
            size = build.image_size(recipe)
            dataset = data.load(
                recipe.dataset, self.data, self.data_dir, image_size=size
            )
            if self.add:
                records.check(dataset.sample)
            batch_size = self.batch_size or recipe.batch_size
            _check_fills(dataset, batch_size)
            if dataset.notice:
                text.say(dataset.notice)
            chosen.append((recipe, dataset, batch_size))
        found, done = [], 0.0
        works = [_work(recipe, batch_size) for recipe, _, batch_size in chosen]
        every = self.seeds * self.steps * sum(works)
        many = f"{self.seeds * len(chosen)} trainings of {self.steps} steps"
        progress = estimate.Estimate(many, every, at_most=True)
        kept = (
            "the trainings that had ended are kept" if self.add else "nothing is kept"
        )
        with settings.computing(), Signals(text.say, saves=False) as signals:
            for (recipe, dataset, batch_size), work in zip(chosen, works, strict=True):
                fingerprint = describe.fingerprint(describe.describe(recipe))
                for seed in range(self.seeds):

                    def after_step(step: int, before=done, work=work) -> None:
                        signals.check(f"stopped; {kept}.")
                        progress.after(before + step * work)

                    record = {"recipe": recipe.name, "fingerprint": fingerprint}
                    record |= self._train(recipe, dataset, batch_size, seed, after_step)
                    if self.add:  # each at once: what took minutes is not to be lost
                        records.add("starts", record)
                    found.append(record)
                    done += self.steps * work
        if self.json:
            text.print_json(found)
        else:
            show(found)

    def _train(
        self,
        recipe: Recipe,
        dataset: DataSet,
        batch_size: int,
        seed: int,
        after_step: Callable[[int], None],
    ) -> dict[str, Any]:
        from kerascnn.process import machine

        def say(step: int, accuracy: float, crossentropy: float) -> None:
            text.say(
                f"{recipe.name}, seed {seed}: step {step}/{self.steps}  accuracy "
                f"{accuracy:6.2%}  crossentropy {crossentropy:.4f}"
            )

        start = train(recipe, dataset, seed, self.steps, batch_size, say, after_step)
        return {
            "seed": seed,
            "batch_size": batch_size,
            "at_most": self.steps,
            **dataclasses.asdict(start),
            "data": {
                "name": dataset.name,
                "sample": dataset.sample,
                "sha256": dataset.hash,
            },
            "environment": machine.for_record(),
        }


@settings.keras_defaults()
def train(
    recipe: Recipe,
    dataset: DataSet,
    seed: int,
    steps: int,
    batch_size: int,
    say: Callable[[int, float, float], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> Start:
    """Train a recipe until it is right twice as often as guessing.

    Callbacks are left out and so is an epoch's smaller last batch: the first steps know
    neither. `say` is told every 20 steps and the last, `after_step` of each, from 1;
    what that raises ends the training.
    """
    import keras

    from kerascnn import data
    from kerascnn.training import build
    from kerascnn.training.options import Overrides

    _check_fills(dataset, batch_size)
    began = time.perf_counter()
    keras.utils.clear_session()
    # What it says of the logits is not for standard output, where JSON stands alone.
    with contextlib.redirect_stdout(sys.stderr):
        model, _ = build.compiled(recipe, dataset, Overrides(seed=seed))
    split, per_epoch = dataset.train, len(dataset.train) // batch_size
    enough = threshold(len(dataset.classes), batch_size)
    learned, accuracies, losses = None, [], []
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = data.order(seed, epoch, len(split))
        batch = order[place * batch_size : (place + 1) * batch_size]
        logs: Any = model.train_on_batch(
            split.images[batch], split.labels[batch], return_dict=True
        )
        accuracies.append(float(logs["accuracy"]))
        losses.append(float(logs["crossentropy"]))
        finite = math.isfinite(losses[-1])
        done = step + 1
        if after_step:
            after_step(done)
        if done % WINDOW and done < steps and finite:
            continue
        accuracy = statistics.fmean(accuracies[-WINDOW:])
        if say:
            say(done, accuracy, statistics.fmean(losses[-WINDOW:]))
        if done >= WINDOW and accuracy >= enough:
            learned = done
        if learned or not finite:
            break
    entropy = statistics.fmean(losses[-WINDOW:])
    return Start(
        learned,
        len(losses),
        round(statistics.fmean(accuracies[-WINDOW:]), 4),
        round(entropy, 4) if math.isfinite(entropy) else None,
        round(time.perf_counter() - began, 1),
    )


def _work(recipe: Recipe, batch_size: int) -> float:
    """Return what a step of a recipe takes, in multiplications of a forward pass."""
    from kerascnn.engine import counts
    from kerascnn.without_weights import without_weights

    network = without_weights(recipe.network)
    return float(batch_size * sum(counts.multiplications(network)))


def threshold(classes: int, batch_size: int) -> float:
    """Return the accuracy over 20 steps from which on a network has learned.

    Twice that of guessing; no less than five standard deviations above it, which only
    matters for few images; and half way to 1 where two classes leave no double.
    """
    chance = 1 / classes
    deviation = math.sqrt(chance * (1 - chance) / (WINDOW * batch_size))
    return min(max(2 * chance, chance + DEVIATIONS * deviation), (1 + chance) / 2)


def _check_fills(dataset: DataSet, batch_size: int) -> None:
    """Raise `UsageError` unless the training images fill a batch."""
    if len(dataset.train) < batch_size:
        raise UsageError(
            f"{len(dataset.train):,} training images of {dataset.name} make no batch "
            f"of {batch_size}: pass a smaller --batch-size."
        )


def show(found: list[dict[str, Any]]) -> None:
    """Print a row for each run."""
    table = Table(title=f"right twice as often as guessing, over {WINDOW} steps")
    table.add_column("recipe", no_wrap=True)
    for column in ("seed", "batch", "learned by step", "accuracy", "crossentropy"):
        table.add_column(column, justify="right")
    for record in found:
        given_up = f"not in {record['steps']}"
        entropy = record["crossentropy"]
        table.add_row(
            record["recipe"] + " (sample)" * record["data"]["sample"],
            str(record["seed"]),
            str(record["batch_size"]),
            str(record["learned"] or given_up),
            f"{record['accuracy']:.2%}",
            "not finite" if entropy is None else f"{entropy:.4f}",
        )
    Console().print(table)
