"""The commands `kerascnn ladder plan`, `ladder run` and `ladder ablation`."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.table import Table

from kerascnn import UsageError, data, text
from kerascnn import recipe as recipes
from kerascnn.process import prepare, signals
from kerascnn.report import cookbook, records
from kerascnn.studies import ablation, ladder
from kerascnn.training.options import Folder

Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
Pattern = Annotated[str, tyro.conf.arg(metavar="PATTERN")]
Number = Annotated[int, tyro.conf.arg(metavar="N")]
Hours = Annotated[float, tyro.conf.arg(metavar="H")]
Some = Annotated[float | None, tyro.conf.arg(metavar="H", help_behavior_hint="")]


@dataclasses.dataclass
class Plan:
    """Show what whole runs of the recipes take here, and which tell most an hour.

    A training step of each recipe is measured once, and kept in the cache folder; the
    recipes whose runs the cookbook has are not measured. Times are those of training
    and evaluation.
    """

    only: Pattern = "*"
    """Recipes whose names match, such as 'fashion_*'."""
    seeds: Number = 3
    """Runs wanted of each recipe."""
    hours: Some = None
    """Mark the runs that fit into so many hours."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    out: Path = ladder.FOLDER
    """Where `kerascnn ladder run` puts its runs."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        text.check_positive(self, "seeds")
        _check_hours(self.hours)

    def __call__(self) -> None:
        prepare.prepare_process()
        out = text.expanded(self.out)
        rungs = ladder.rungs(self.only, self.seeds, self.data_dir, out)
        turns = ladder.turns(rungs)
        if self.json:
            rows = [dataclasses.asdict(each) for each in rungs]
            order = [dataclasses.asdict(each) for each in turns]
            text.print_json({"recipes": rows, "order": order})
        else:
            _show(rungs, turns, self.seeds, self.hours)


@dataclasses.dataclass
class Run:
    """Train what the plan lists, in its order and at low priority, for some hours.

    Each run is of the full set and to the last epoch, in a process of its own. When the
    time is over, or at Ctrl-C, the run that trains is kept, and the next `ladder run`
    goes on with it, to the bit. Finished runs are taken into the cookbook.
    """

    hours: Hours
    """How long to train, at most."""
    only: Pattern = "*"
    """Recipes whose names match, such as 'fashion_*'."""
    seeds: Number = 3
    """Runs wanted of each recipe."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    out: Path = ladder.FOLDER
    """Where to put the runs."""

    def __post_init__(self):
        text.check_positive(self, "seeds")
        _check_hours(self.hours)
        _check_checkout()

    def __call__(self) -> None:
        _at_low_priority()
        out = text.expanded(self.out)
        rungs = ladder.rungs(self.only, self.seeds, self.data_dir, out)
        if not ladder.turns(rungs):
            print("No run is wanted of these recipes whose full set is here.")
            return
        number = ladder.climb(rungs, self.hours, out, self.data_dir)
        print(f"{number} run{'s' * (number != 1)} taken into the cookbook.")


@dataclasses.dataclass
class Ablation:
    """Train a recipe without one of its ingredients, for each in turn, for some hours.

    Its ingredients stand in `recipes/NAME/ablation.toml`, with the edits of its file
    that take each out. All runs are of the full set and have as many epochs; the first
    seed of all comes before the next. What has ended is kept, and the recipe's card has
    the table. Stopped, the same command goes on, to the bit.
    """

    recipe: Name
    """A recipe with a list of ingredients."""
    hours: Hours
    """How long to train, at most."""
    epochs: Annotated[int | None, tyro.conf.arg(metavar="N", help_behavior_hint="")] = (
        None
    )
    """Passes over the training set in each run (default: the recipe's)."""
    seeds: Number = 3
    """Runs wanted without each ingredient."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="INGREDIENT...")] = ()
    """The ingredients (default: all)."""
    data_dir: Folder = None
    """Where tensorflow-datasets keeps its sets."""
    out: Path = ablation.FOLDER
    """Where to put the runs."""

    def __post_init__(self):
        text.check_positive(self, "seeds", "epochs")
        _check_hours(self.hours)
        _check_checkout()
        recipes.check_name(self.recipe)

    def __call__(self) -> None:
        _at_low_priority()
        recipe = recipes.load(self.recipe)
        epochs = self.epochs or recipe.epochs
        wanted = ablation.wanted(self.recipe, epochs, self.seeds, self.only)
        if not wanted:
            print("No run is wanted: the recipe's card has them all.")
            return
        if data.prepared(recipe.dataset, self.data_dir) is None:
            raise UsageError(
                f"the full set of {recipe.dataset} is not here: "
                f"kerascnn data get {recipe.dataset}"
            )
        number = ablation.work_through(
            *(wanted, epochs, self.hours, text.expanded(self.out), self.data_dir)
        )
        if number:
            cookbook.Cookbook()()
        print(f"{number} of {len(wanted)} runs have ended; the card has their table.")


def _check_checkout() -> None:
    """Raise `UsageError` where there is no cookbook to add to."""
    if not records.FOLDER.exists():
        raise UsageError(
            f"there is no {records.FOLDER} for the cookbook: run it in a checkout."
        )


def _at_low_priority() -> None:
    """Prepare the process, and let all others go first."""
    if signals.is_program() and hasattr(os, "nice"):  # Windows has none
        os.nice(19)
    prepare.prepare_process()


def _check_hours(hours: float | None) -> None:
    """Raise `UsageError` unless hours are a positive, finite number, or not given."""
    if hours is not None and not 0 < hours < float("inf"):
        raise UsageError(f"--hours {hours:g}: expected a positive number.")


def _show(
    rungs: list[ladder.Rung],
    turns: list[ladder.Turn],
    seeds: int,
    hours: float | None,
) -> None:
    """Print the recipes in the order of their next runs, then those without one."""
    first = {turn.name: place for place, turn in reversed(list(enumerate(turns)))}
    fits, total = dict.fromkeys(first, 0), 0.0
    for turn in turns:
        total += turn.seconds
        if hours is not None and total <= 3600 * hours:
            fits[turn.name] += 1
    table = Table(
        title=f"whole runs on this machine, {seeds} seed{'s' * (seeds > 1)} each",
        caption="full set, all epochs; begun: the share of stopped runs that is done",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("recipe", no_wrap=True)
    columns = ["a step", "one run", "measured", "wanted", "begun", "all wanted"]
    for column in columns + ["fits"] * (hours is not None):
        table.add_column(column, justify="right", no_wrap=True)
    for rung in sorted(rungs, key=lambda rung: first.get(rung.name, len(turns))):
        cells = [rung.name, "-", "-", str(len(rung.measured)), str(len(rung.wanted))]
        cells += ["-", "-"]
        if rung.seconds is not None and rung.step is not None:
            cells[1] = f"{rung.step:.3g} s"
            cells[2] = text.duration(rung.seconds)
            if rung.begun:
                cells[5] = f"{sum(rung.begun.values()):.2g}"
            cells[6] = text.duration(sum(map(rung.left, rung.wanted)))
        table.add_row(*cells, *[str(fits.get(rung.name, 0))] * (hours is not None))
    text.console().print(table)
    absent = [rung.name for rung in rungs if rung.wanted and rung.seconds is None]
    if absent:
        sets = {name: ladder.recipes.outline(name).dataset for name in absent}
        ways = ", ".join(
            f"kerascnn data get {name}" for name in sorted({*sets.values()})
        )
        print(f"Without their full set here: {', '.join(absent)} ({ways}).")
    if turns:
        whole = text.duration(sum(turn.seconds for turn in turns))
        print(
            f"All that is wanted: about {whole}, with `kerascnn ladder run --hours H`."
        )
    else:
        print("Nothing is wanted.")
