"""A recipe trained with several seeds in turn: `kerascnn run RECIPE --seeds 0-4`."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import statistics
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerascnn import UsageError, api, text
from kerascnn import runs as folders
from kerascnn.cli.runs import record
from kerascnn.recipe import Course
from kerascnn.runs import Run

if TYPE_CHECKING:
    from rich.console import Console

    from kerascnn.recipe import Recipe
    from kerascnn.training.options import Command, Overrides

# What decides a run's numbers, of the options that its `config.json` records.
DECIDING = ("epochs", "batch_size", "learning_rate", "limit", "validation")
DECIDING += ("precision", "engine", "accelerate", "deterministic", "class_weights")
DECIDING += ("accumulate", "remat", "label_smoothing")
# What a run that goes on may be given anew.
ANEW = {"data_dir", "cache_dir", "checkpoint_minutes", "on_nan"}
ANEW |= {"devices", "workers"}


def train(recipe: Recipe, options: Command, given: Collection[str]) -> None:
    """Train a recipe with each of several seeds, and print what they have in common.

    Args:
        recipe: The recipe.
        options: Those of each run, but for the seed, and the seeds.
        given: The names of the options that the user gave.

    Raises:
        UsageError: A run can't be begun or can't go on.
        KeyboardInterrupt: Ctrl-C; the same command goes on.
        NotFiniteError: The loss of some seeds was not finite; the others are trained.
    """
    aside = contextlib.redirect_stdout(sys.stderr)
    with aside if options.json else contextlib.nullcontext():
        trained, failure = _trained(recipe, options, given)
    found = summary(trained)
    if options.json:
        text.print_json(found, indent=2)
    elif trained:
        show(found)
    if failure:
        raise failure


def _trained(
    recipe: Recipe, options: Command, given: Collection[str]
) -> tuple[list[Run], UsageError | None]:
    """Return a finished run for each seed, and what ended one that has none."""
    from kerascnn.engine.finite import NotFiniteError
    from kerascnn.training.options import parsed_seeds

    case = _case(recipe, options.overrides)
    seeds = parsed_seeds(options.seeds or "")
    trained, failure = [], None
    for number, seed in enumerate(seeds, 1):
        run = _begun(case, recipe.name, seed, options.out)
        line = f"\nSeed {seed}, {number} of {len(seeds)}"
        if run and run.finished:
            text.show(f"{line}: trained already, {run.folder}")
            trained.append(run)
            continue
        text.show(f"{line}:")
        try:
            trained.append(_train(recipe, options, seed, run, given))
        except NotFiniteError as error:
            text.warn(f"Seed {seed}: {error}")
            failure = error
        except KeyboardInterrupt:
            done = f"{len(trained)} of {len(seeds)} seeds are trained"
            text.warn(f"{done}: the same command goes on with seed {seed}.")
            raise
    return trained, failure


def _train(
    recipe: Recipe,
    options: Command,
    seed: int,
    begun: Run | None,
    given: Collection[str],
) -> Run:
    """Train a seed to its end, from its beginning or from where it was stopped."""
    from kerascnn.training.options import Overrides

    if begun is None:
        out = options.out and options.out / f"seed-{seed}"
        own = dataclasses.replace(options.overrides, seed=seed, out=out)
        return api.completed(recipe, own)
    names = ANEW & {*given}
    anew = {name: getattr(options, name) for name in names}
    own = Overrides(resume=begun.folder, report=options.report, **anew)
    try:
        return api.completed(recipe, own, names)
    except UsageError as error:
        if type(error) is not UsageError:
            raise
        folder = shlex.quote(str(begun.folder))
        raise UsageError(
            f"seed {seed}: {error} `kerascnn resume {folder} --force` does that; "
            "without that folder the seed is trained anew."
        ) from error


def _case(recipe: Recipe, overrides: Overrides) -> dict[str, Any]:
    """Return what the runs of all seeds share, as their `config.json` has it."""
    import keras

    from kerascnn import describe
    from kerascnn.prediction import shipped
    from kerascnn.training import images

    found = images.loaded(recipe, overrides)
    return {
        "fingerprint": describe.fingerprint(describe.describe(found.recipe)),
        "data": found.dataset.hash,
        "backend": keras.backend.backend(),
        "weights": overrides.weights and shipped.weights(overrides.weights).sha256,
        "freeze": list(overrides.freeze),
        **{name: getattr(overrides, name) for name in DECIDING},
    }


def _case_of(run: Run) -> dict[str, Any] | None:
    """Return the same of a run on disk, `None` of one that is not comparable."""
    from kerascnn.training import resume
    from kerascnn.training.options import Overrides

    try:
        config = run.config
        if {"force", "trained_on_after"} & {*config["overrides"]}:  # on the way
            return None
        # Older runs have not recorded options that came later.
        options = resume.record(Overrides()) | config["options"]
        return {
            "fingerprint": config["fingerprint"],
            "data": config["data"]["sha256"],
            "backend": config["environment"]["backend"],
            "weights": config.get("began_with", {}).get("sha256"),
            "freeze": config.get("freeze", []),
            **{name: options[name] for name in DECIDING},
        }
    except (UsageError, LookupError, TypeError):
        return None


def _begun(
    case: dict[str, Any], recipe: str, seed: int, out: Path | None
) -> Run | None:
    """Return the seed's run of the case that has begun, or finished, if there is one.

    Of several the oldest that has finished: to train a seed again is no second draw.

    Raises:
        UsageError: Another process trains it, or `out` holds another run in its place.
    """
    folder = Path("runs", recipe) if out is None else text.expanded(out)
    if out is None:
        found = folders.below(folder)
    else:
        found = folders.below(folder / f"seed-{seed}")
    same = [run for run in found if _case_of(run) == case and _seed(run) == seed]
    if out is not None and len(same) < len(found):
        raise UsageError(
            f"{found[0].folder} holds another run than this command's: name another "
            "folder with --out."
        )
    states = {run.folder: run.state for run in same}
    for run in same:
        if states[run.folder] == "finished":
            return run
    for run in same:
        if states[run.folder] == "running":
            raise UsageError(
                f"another process is training seed {seed}, {run.folder}: wait for it, "
                "or stop it first."
            )
    going = [run for run in same if states[run.folder] == "interrupted"]
    return going[-1] if going else None


def _seed(run: Run) -> int:
    return run.config["seed"]


def summary(trained: Sequence[Run]) -> dict[str, Any]:
    """Return what several seeds' runs come to, as JSON values.

    Mean, deviation and interval are of the seeds that did better than guessing, as the
    cookbook has it; of all, where none did.
    """
    from kerascnn.report import intervals
    from kerascnn.report.summary import compared

    if not trained:
        return {"recipe": None, "runs": [], "learned": 0, "mean": None}
    config = trained[0].config
    found = [record(run) for run in trained]
    values = [each["accuracy"] for each in found if each["accuracy"] is not None]
    learned = intervals.learned(values, len(config["data"]["classes"]))
    kept = learned or values
    bonuses = [
        each["best_epoch"]["peeking_bonus"]
        for each in found
        if each["best_epoch"] and each["accuracy"] in kept
    ]
    between = intervals.interval(kept)
    figure = compared(config).get("test")
    return {
        "recipe": config["recipe"],
        "runs": found,
        "evaluated_on": found[0]["evaluated_on"],
        "learned": len(learned),
        "mean": statistics.fmean(kept) if kept else None,
        "deviation": statistics.stdev(kept) if kept[1:] else None,
        "interval": between and [between[0] - between[1], between[0] + between[1]],
        "peeking_bonus": statistics.fmean(bonuses) if bonuses else None,
        "course": Course(**config["course"]).test if figure else None,
    }


def show(found: dict[str, Any], console: Console | None = None) -> None:
    """Print a row for each seed, then mean, deviation and interval."""
    from rich.table import Table
    from rich.text import Text

    console = console or text.console()
    rows, kind = found["runs"], found["evaluated_on"]
    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("seed", kind, "training", "best epoch", "time"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("run", overflow="fold")
    for each in rows:
        best = each["best_epoch"]
        table.add_row(
            str(each["seed"]),
            *map(_share, (each["accuracy"], each["train_accuracy"])),
            _share(best and best["accuracy"]),
            text.duration(each["seconds"]),
            Text(each["run"]),
        )
    console.print()
    title = f"{found['recipe']}, {len(rows)} seed{'s' * (len(rows) > 1)}"
    console.print(Text(title, "bold"))
    console.print(table)
    console.print()
    for line in lines(found):
        console.print(Text(line))


def lines(found: dict[str, Any]) -> list[str]:
    """Say mean, deviation, interval, the peeking bonus and the course's figure."""
    if found["mean"] is None:
        return []
    mean, count = found["mean"], found["learned"] or len(found["runs"])
    said = [f"{found['evaluated_on']} accuracy: mean {mean:.2%}"]
    if found["deviation"] is not None:
        low, high = found["interval"]
        said[0] += (
            f", standard deviation {100 * found['deviation']:.2f} points, 95 % "
            f"interval of the mean {low:.2%} to {high:.2%}"
        )
    rest = len(found["runs"]) - found["learned"]
    if rest and found["learned"]:
        stayed = "stays" if rest == 1 else "stay"
        said.append(f"of the {count} seeds that learned: {rest} {stayed} at chance")
    elif rest:
        said.append("no seed did better than guessing")
    if (bonus := found["peeking_bonus"]) is not None:
        said.append(
            f"peeking bonus: {100 * bonus:+.2f} points on average, had each seed's "
            "best epoch on the test set been reported"
        )
    if (course := found["course"]) is not None:
        first = found["runs"][0]
        part = " on the full set" * (first["sample"] or "limit" in first["changed"])
        gap = f", a gap of {100 * (mean - course):+.1f} points"
        said.append(f"the course's{part}: {course:.1%}" + gap * (not part))
    return [f"{line[0].upper()}{line[1:]}." for line in said]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
