"""The commands `kerascnn parity` and `kerascnn backends`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from kerascnn import UsageError
from kerascnn import recipe as recipes
from kerascnn import text as texts
from kerascnn.parity.mistakes import MISTAKES
from kerascnn.process import cores
from kerascnn.process.backend import use_backend
from kerascnn.process.estimate import Estimate
from kerascnn.training.options import BACKENDS, Backend, Folder, Integer
from kerascnn.twins import check_torch

Names = Annotated[
    tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RECIPE")
]
Name = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
# Not a Literal: of those that may be left out, tyro also offers None.
Broken = Annotated[
    str | None, tyro.conf.arg(name="break", metavar=f"{{{','.join(MISTAKES)}}}")
]


@dataclasses.dataclass
class Parity:
    """Compare recipes with the lectures' PyTorch networks, layer by layer."""

    recipe: Names = ()
    """Which recipes to compare."""
    all: bool = False
    """Compare all of them."""
    break_: Broken = None
    """Make a classic mistake on purpose, and see where it shows."""
    backend: Backend = None
    """Keras's backend (default: KERAS_BACKEND, else jax)."""
    accelerate: bool = True
    """Fast convolution gradients on a CPU (JAX)."""
    steps: Integer = None
    """Steps of the loss trace (default: 100; fewer for the two largest networks)."""
    jobs: Integer = None
    """Recipes compared at once, where there are many (default: the cores)."""
    json: bool = False
    """Print JSON instead of a table."""
    train: bool = False
    """Train recipe and twin instead, and compare their final test accuracies."""
    seeds: Integer = None
    """With --train: runs of each, from seeds 0 to N - 1, at least 2 (default: 3)."""
    epochs: Integer = None
    """With --train: passes over the training set (default: the recipe's)."""
    limit: Integer = None
    """With --train: use the first N training and test images only."""
    data: Literal["auto", "full", "sample"] | None = None
    """With --train: which images, as `kerascnn run` has it (default: auto)."""
    data_dir: Folder = None
    """With --train: where tensorflow-datasets keeps its sets."""
    add: bool = False
    """With --train: keep each training for the cookbook, which `kerascnn cookbook`
    renders, and do not repeat those that it has."""

    def __post_init__(self):
        texts.check_positive(self, "steps", "jobs", "seeds", "epochs", "limit")
        for name in self.recipe:
            recipes.check_name(name)
        if self.backend is not None:
            texts.choose(self.backend, BACKENDS, "backend")
        if self.all == bool(self.recipe):
            raise UsageError("expected recipes or --all: `kerascnn parity RECIPE`.")
        if self.train and (self.all or self.break_ or self.steps):
            raise UsageError("--train does not go with --all, --break or --steps.")
        for name in ("seeds", "epochs", "limit", "data", "data_dir", "add"):
            if getattr(self, name) not in (None, False) and not self.train:
                raise UsageError(f"--{name.replace('_', '-')} needs --train.")
        if self.jobs and (self.train or len(self.recipe) == 1):
            raise UsageError("--jobs is for several recipes, and not for --train.")
        if self.seeds == 1:
            raise UsageError(
                "--seeds 1 tells nothing of the spread: expected 2 or more."
            )
        for name in self.recipe:
            facts = recipes.outline(name)
            if self.limit and facts.drop_last and self.limit < facts.batch_size:
                raise UsageError(
                    f"--limit {self.limit}: {name} trains on whole batches of "
                    f"{facts.batch_size:,} images alone: expected as many or more."
                )
        if self.break_:
            texts.choose(self.break_, MISTAKES, "mistake")
        if self.break_ == "decay_per_step" and self.steps == 1:
            raise UsageError("--break decay_per_step shows from the second step on.")
        if self.break_ and len(self.recipe) != 1:
            raise UsageError("--break takes one recipe.")

    def __call__(self) -> None:
        check_torch()
        use_backend(self.backend)
        if self.train:
            passed = self._train()
        elif len(self.recipe) == 1:
            passed = self._one(self.recipe[0])
        else:
            passed = self._many(list(self.recipe) or recipes.names())
        if not passed:
            raise SystemExit(1)

    def _one(self, name: str) -> bool:
        from kerascnn.parity import batches, worker

        worker.share_cores(0, 1)
        steps = self.steps or batches.size(recipes.outline(name).parameters).steps
        progress = Estimate(f"the {steps} steps of {name} and its twin", steps)
        result = worker.result(
            name, self.accelerate, self.break_, self.steps, progress.after
        )
        if self.json:
            texts.print_json(result)
        else:
            show(result)
        return result["passed"]

    def _many(self, names: Sequence[str]) -> bool:
        from kerascnn.parity import worker

        # The largest first, so that none is left alone at the end.
        size = dict.fromkeys(names, 0)
        for name in names:
            with contextlib.suppress(UsageError):  # which the worker will tell
                size[name] = recipes.outline(name).parameters
        ordered = sorted(names, key=lambda name: -size[name])
        jobs = min(self.jobs or cores.available(), len(names))
        results, left_out = [], []
        # At most, because the largest come first.
        progress = Estimate(f"{len(names)} comparisons", len(names), at_most=True)
        progress.after(0)
        answers = worker.results(ordered, jobs, self.accelerate, self.steps)
        for number, result in enumerate(answers, 1):
            progress.after(number)
            if reason := result.get("left_out"):
                if not self.all:
                    raise UsageError(reason)
                left_out.append(f"left out: {reason}")
                continue
            results.append(result)
            if not self.json:
                done = len(results) + len(left_out)
                print(line(result, done, len(names)), flush=True)
        if not results:
            raise UsageError("no recipe has a PyTorch twin: nothing was compared.")
        results.sort(key=lambda result: recipes.names().index(result["recipe"]))
        if self.json:
            texts.print_json(results)
        else:
            show_many(results)
        for text in left_out:
            print(text, file=sys.stderr)
        return all(result["passed"] for result in results)

    def _train(self) -> bool:
        from kerascnn import twins
        from kerascnn.studies import parity_training

        results = []
        for name in self.recipe:
            twins.load(name)  # a missing one is to be said before hours of training
        for name in self.recipe:
            # JSON stands alone on standard output.
            progress = sys.stderr if self.json else sys.stdout
            with contextlib.redirect_stdout(progress):
                result = parity_training.compare(
                    name,
                    seeds=self.seeds or 3,
                    epochs=self.epochs,
                    limit=self.limit,
                    choice=self.data or "auto",
                    data_dir=self.data_dir,
                    accelerate=self.accelerate,
                    add=self.add,
                )
            results.append(result)
            if not self.json:
                show_training(result)
        if self.json:
            texts.print_json(results)
        return all(result["passed"] for result in results)


@dataclasses.dataclass
class Backends:
    """Train one recipe alike on JAX, TensorFlow and PyTorch; see where they part."""

    recipe: Name
    """Which recipe to train."""
    steps: Annotated[int, tyro.conf.arg(metavar="N")] = 100
    """Training steps."""
    batch_size: Annotated[int, tyro.conf.arg(metavar="N")] = 32
    """Images a step."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Where to draw the losses (default: backends-<recipe>.png)."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self):
        texts.check_positive(self, "steps", "batch_size")
        recipes.check_name(self.recipe)
        if self.out and self.out.suffix not in PICTURES:
            raise UsageError(
                f"--out {self.out}: expected a name ending in {', '.join(PICTURES)}."
            )

    def __call__(self) -> None:
        from kerascnn.studies import backends

        results, missing = backends.compare(self.recipe, self.steps, self.batch_size)
        path = self.out or Path(f"backends-{self.recipe}.png")
        if self.json:
            texts.print_json(
                {
                    "recipe": self.recipe,
                    "batch_size": self.batch_size,
                    "results": [as_json(r) for r in results],
                    "parting": backends.partings(results),
                    "missing": missing,
                    "figure": str(path),
                }
            )
            backends.draw(self.recipe, results, path)
            return
        table = Table(
            title=f"{self.recipe}: {self.steps} steps of {self.batch_size} images, "
            "same weights, same batches"
        )
        table.add_column("backend")
        for column in ("first step", "time per step", "host memory", "last loss"):
            table.add_column(column, justify="right")
        for r in results:
            table.add_row(
                r.backend,
                f"{r.first:.1f} s",
                f"{r.seconds * 1e3:.1f} ms",
                f"{r.memory / 2**20:,.0f} M" if r.memory else "-",
                f"{r.losses[-1]:.5f}",
            )
        console = Console()
        console.print(table)
        for pair, step in backends.partings(results).items():
            console.print(
                f"{pair}: losses part beyond {backends.PARTED:g} at step {step}"
                if step
                else f"{pair}: losses within {backends.PARTED:g} to the last step"
            )
        for text in missing:
            console.print(f"left out: {text}", markup=False)
        backends.draw(self.recipe, results, path)
        console.print(f"figure: {path}", markup=False, soft_wrap=True)


def as_json(result: Any) -> dict[str, Any]:
    """Return a backend's result; of losses that are not finite, JSON has only null."""
    losses = [loss if math.isfinite(loss) else None for loss in result.losses]
    return dataclasses.asdict(result) | {"losses": losses}


# What matplotlib draws without further packages.
PICTURES = (".png", ".pdf", ".svg")

# The columns of many recipes' table. Batches, penalties and learning rate are left out:
# exact, but for the rounding of a sum.
PARTS = (
    *("transform", "initial", "forward", "inference", "loss", "gradient", "zeros"),
    *("update", "statistics", "trace", "free trace"),
)


def show(result: dict[str, Any]) -> None:
    """Print one recipe's comparison: every quantity, then the first that failed."""
    table = Table(title=heading(result), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("quantity", "which", "apart", "allowed", "", "note"):
        right = column in ("apart", "allowed")
        table.add_column(
            column,
            justify="right" if right else "left",
            no_wrap=column not in ("which", "note"),
            overflow="fold",
        )
    before = None
    for check in result["checks"]:
        part = check["part"]
        if part != before and before is not None:
            table.add_section()
        table.add_row(
            part if part != before else "",
            check["name"],
            number(check["difference"]),
            number(check["tolerance"]),
            "[green]ok[/]" if check["passed"] else "[bold red]beyond[/]",
            check["note"],
        )
        before = part
    console = Console()
    console.print(table)
    console.print(verdict(result), markup=False, highlight=False, soft_wrap=True)


def show_many(results: Sequence[dict[str, Any]]) -> None:
    """Print a row a recipe: the largest difference of each kind of quantity."""
    compared = [result for result in results if "mistake" not in result]
    title = "largest differences from PyTorch"
    if compared:
        title = f"{title}, {settings(compared[0])}"
    table = Table(title=title)
    table.add_column("recipe", no_wrap=True)
    for part in PARTS:
        table.add_column(part, justify="right")
    for column in ("steps", "images", "time"):
        table.add_column(column, justify="right")
    table.add_column("")
    raised = []
    for result in results:
        if "mistake" in result:
            table.add_row(result["recipe"], *"-" * (len(PARTS) + 3), "[bold red]no[/]")
            continue
        cells = []
        for part in PARTS:
            found = [c for c in result["checks"] if c["part"] == part]
            worst = max(found, key=excess, default=None)
            cell = number(worst["difference"]) if worst else "-"
            if loose := [c for c in found if c["usual"] is not None]:
                cell += " *"
                raised.append(raising(result["recipe"], loose))
            cells.append(cell)
        table.add_row(
            result["recipe"],
            *cells,
            str(result["steps"]),
            str(result["batch"]),
            f"{result['seconds']:.0f} s",
            "[green]ok[/]" if result["passed"] else "[bold red]parts[/]",
        )
    # Wider than a terminal may be: a folded table can't be read.
    console = Console()
    console.width = max(console.width, 180)
    console.print(table)
    for text in raised:
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for result in results:
        if not result["passed"]:
            console.print(verdict(result), markup=False, highlight=False)


def raising(name: str, checks: Sequence[dict[str, Any]]) -> str:
    """Say in a line that rounding has raised the tolerance of some quantities."""
    most = max(checks, key=lambda c: c["tolerance"])
    others = f" (and {len(checks) - 1} more)" if len(checks) > 1 else ""
    return (
        f"* {name}, {most['part']}, {most['name']}{others}: at most "
        f"{number(most['tolerance'])} instead of {number(most['usual'])} expected: "
        f"{most['note']}."
    )


def excess(check: dict[str, Any]) -> float:
    """Return how many times its tolerance a difference is."""
    if check["difference"] is None:
        return math.inf
    return check["difference"] / (check["tolerance"] or 1e-30)


def line(result: dict[str, Any], done: int, of: int) -> str:
    """Return one line about a recipe, while others are still being compared."""
    word = "ok" if result["passed"] else verdict(result)
    seconds = result.get("seconds", 0)
    return f"{done:2}/{of} {result['recipe']:22} {seconds:5.0f} s  {word}"


def heading(result: dict[str, Any]) -> str:
    """Return what was compared, in a line."""
    broken = result["break"]
    text = f"{result['recipe']} beside its PyTorch twin, {settings(result)}"
    return f"{text}; broken: {MISTAKES[broken][0]}" if broken else text


def settings(result: dict[str, Any]) -> str:
    """Return the settings of a comparison, in a few words."""
    if result["backend"] != "jax":
        return f"{result['backend']} backend"
    return f"jax backend, fast gradients {'on' if result['accelerate'] else 'off'}"


def verdict(result: dict[str, Any]) -> str:
    """Return whether a recipe and its twin agree, or where they part first."""
    if mistake := result.get("mistake"):
        return f"{result['recipe']} can't be compared with its twin: {mistake}"
    first = result["first"]
    if first is None:
        return f"{result['recipe']} and its PyTorch twin agree."
    unit = f" {first['note']}" if first["note"].startswith("in ") else ""
    return (
        f"{result['recipe']} parts from its twin first in: {first['part']}, "
        f"{first['name']}: {number(first['difference'])}{unit}, at most "
        f"{number(first['tolerance'])} expected. Likely: {first['reason']}."
    )


def number(value: float | None) -> str:
    """Write a difference: two digits."""
    if value is None:
        return "no number"
    return "0" if value == 0 else f"{value:.1e}"


def show_training(result: dict[str, Any]) -> None:
    """Print final accuracies of recipe and twin, with their intervals."""
    table = Table(
        title=f"{result['recipe']}: final test accuracy, {result['epochs']} epochs, "
        f"{result['train_images']:,} training images"
    )
    table.add_column("seed")
    sides = ("recipe", "twin")
    for side in sides:
        table.add_column(side, justify="right")
    found = [result["accuracies"][side] for side in sides]
    for seed, accuracies in enumerate(zip(*found, strict=True)):
        table.add_row(str(seed), *(f"{accuracy:.2%}" for accuracy in accuracies))
    table.add_section()
    between = (result["intervals"][side] for side in sides)
    table.add_row(
        "mean, 95 % interval",
        *(f"{both[0]:.2%} ± {both[1]:.2%}" if both else "-" for both in between),
    )
    console = Console()
    console.print(table)
    console.print(result["verdict"], markup=False, highlight=False)
