"""Runs of a recipe without one of its ingredients, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kerascnn import UsageError, describe, text
from kerascnn import recipe as recipes
from kerascnn.report import ablation, cookbook, records
from kerascnn.report.ablation import Variant
from kerascnn.runs import Run
from kerascnn.studies import ladder

FOLDER = Path("runs") / "ablation"

# What is kept of a run: that of the machine and the versions, and the figures.
_KEPT = ("epochs", "batch_size", "seed", "engine", "data", "environment")


class Wanted(NamedTuple):
    """A run that is wanted: of which variant, with which seed."""

    variant: Variant
    seed: int

    def __str__(self) -> str:
        taken_out = f" without {self.variant.name}" if self.variant.name else ""
        return f"{self.variant.recipe}{taken_out}, seed {self.seed}"


def fingerprint(recipe: str) -> str:
    """Return a recipe's fingerprint, by which records are known."""
    return describe.fingerprint(describe.describe(recipes.load(recipe)))


def wanted(
    recipe: str, epochs: int, seeds: int, only: Sequence[str] = ()
) -> list[Wanted]:
    """Return the runs that are not measured yet: the first seed of all, then the next.

    Args:
        recipe: Its name.
        epochs: Of each run.
        seeds: Runs wanted of each variant.
        only: The ingredients; of all where none is named.

    Raises:
        UsageError: The recipe has no such ingredient, or no list of them.
    """
    found = ablation.variants(recipe)
    names = [variant.name for variant in found[1:]]
    for name in only:
        if name not in names:
            raise UsageError(
                f"--only {name}: the ingredients of {recipe} are {', '.join(names)}."
            )
    chosen = [each for each in found if not only or each.name in ("", *only)]
    here = fingerprint(recipe)
    measured = {each.name: ablation.runs_of(each, here, epochs) for each in chosen}
    return [
        Wanted(variant, seed)
        for seed in range(seeds)
        for variant in chosen
        if seed not in measured[variant.name]
    ]


def train(
    run: Wanted, epochs: int, folder: Path, data_dir: Path | None, until: float
) -> bool:
    """Begin or go on with a run, as `ladder.train` does, and keep its record."""
    variant, seed = run
    name = f"{variant.recipe}_without_{variant.name}" if variant.name else "whole"
    here = fingerprint(variant.recipe)
    place = folder / f"{variant.recipe}-{here[:8]}"
    recipe = variant.recipe
    if variant.name:
        # A variant that has changed gets another folder.
        place /= variant.digest[:8]
        recipe = str(_written(variant, name, place))
    place = place / f"{name}-{epochs}" / f"seed-{seed}"
    words = [recipe, "--data", "full", "--seed", str(seed), "--epochs", str(epochs)]
    if not ladder.finished(words, place, data_dir, until):
        return False
    records.add(f"{variant.recipe}/ablation", record(variant, here, Run(place)))
    return True


def _written(variant: Variant, name: str, folder: Path) -> Path:
    """Write a variant's recipe into a folder, where a run may go on with it."""
    source = recipes.find(variant.recipe).read_text("utf-8")
    file = folder / f"{name}.py"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(variant.source(source, name), "utf-8")
    return file


def record(variant: Variant, fingerprint: str, run: Run) -> dict[str, Any]:
    """Return what is kept of a variant's run, under the recipe's own fingerprint.

    Raises:
        UsageError: The run left steps out, or trained on a sample.
    """
    if run.config["data"]["sample"] or run.result.get("steps_left_out"):
        raise UsageError(
            f"{run.folder} is not for the cookbook: it trained on the bundled sample, "
            "or left out steps whose numbers were not finite."
        )
    return {
        **{"recipe": variant.recipe, "fingerprint": fingerprint},
        **{"without": variant.name, "edits": variant.digest},
        **cookbook.without_paths({name: run.config[name] for name in _KEPT}),
        "result": run.result,
    }


def work_through(
    runs: Sequence[Wanted],
    epochs: int,
    hours: float,
    folder: Path,
    data_dir: Path | None,
    say: Callable[[str], None] = text.say,
) -> int:
    """Train what is wanted for so many hours; return how many runs have ended."""
    until = time.monotonic() + 3600 * hours
    ended = 0
    for number, run in enumerate(runs, 1):
        if time.monotonic() >= until:
            break
        say(f"{number} of {len(runs)}: {run}")
        try:
            ended += train(run, epochs, folder, data_dir, until)
        except UsageError as mistake:  # one that fails does not end the night
            say(f"left out: {mistake}")
    return ended
