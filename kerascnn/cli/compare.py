"""The command `kerascnn compare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kerascnn import UsageError, text
from kerascnn.cli.report import File, check_file
from kerascnn.process import prepare
from kerascnn.runs import Run, peeked
from kerascnn.text import duration, expanded

if TYPE_CHECKING:
    from rich.table import Table

    from kerascnn.page.comparison import Beside, Group


@dataclasses.dataclass
class Compare:
    """Compare finished runs on the same images: accuracy, classes, image by image.

    Runs that differ in their seed alone stand together, with mean and deviation.
    Each run stands beside the first. An image is gained where the first got it wrong
    and this one right, lost where it went the other way; p is McNemar's exact test.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")
    ]
    """The runs' folders, two or more."""
    out: File = None
    """Write them as a page too, with the images that changed: one HTML file."""
    json: bool = False
    """Print a JSON list, for each run: run, recipe, changed (options), seed, group (a
    letter for the seeds of one case), epochs, seconds, accuracy, interval (low, high),
    best_epoch (epoch, accuracy, peeking_bonus), classes (accuracy by name), gained and
    lost (indices of images), p (McNemar's test). Shares are 0 to 1."""

    def __post_init__(self):
        if len(self.runs) < 2:
            raise UsageError("expected two runs or more: `kerascnn compare RUN RUN`.")
        check_file(self.out)

    def __call__(self) -> None:
        runs = [Run(expanded(path)) for path in self.runs]
        for run in runs:
            _ = run.result  # where there is none, that is the reason
        prepare.prepare_process()
        from kerascnn.page import comparison, document

        found = comparison.beside(runs)
        if self.json:
            groups = comparison.grouped(found)
            of = {id(each): g.letter for g in groups for each in g.members}
            text.print_json([record(e, of[id(e)]) for e in found], indent=2)
        else:
            show(found)
        if self.out is not None:
            path = document.save(comparison.render(found), expanded(self.out))
            if not self.json:
                print(path)


def record(beside: Beside, group: str) -> dict[str, Any]:
    """Return a run's comparison as JSON values."""
    config, result = beside.run.config, beside.run.result
    shares = [None if share != share else share for share in beside.per_class.tolist()]
    return {
        "run": str(beside.run.folder),
        "recipe": config["recipe"],
        "changed": config["overrides"],
        "seed": config["seed"],
        "group": group,
        "epochs": result["epochs"],
        "seconds": result["seconds"],
        "accuracy": beside.accuracy,
        "interval": list(beside.interval),
        "best_epoch": None
        if config.get("validation")
        else peeked(beside.run.metrics, result),
        "classes": dict(zip(beside.outcome.classes, shares, strict=True)),
        "gained": beside.gained.tolist(),
        "lost": beside.lost.tolist(),
        "p": beside.chance,
    }


def show(found: list[Beside]) -> None:
    """Print the runs, what each changes beside the first, and the classes."""
    from rich.text import Text

    from kerascnn.page import comparison

    console, groups = text.console(), comparison.grouped(found)
    several = len(groups) < len(found)
    first = groups[0].members[0]
    named = [pair for g in groups for pair in zip(g.names, g.members, strict=True)]
    width = max(len(name) for name, _ in named)
    for name, each in named:
        seed, folder = each.run.config["seed"], each.run.folder
        took = duration(each.run.result["seconds"])
        case = comparison.label(each.run)
        print(f"{name:{width}}  {case}, seed {seed}, {took}: {folder}")
    console.print(_runs(first, named))
    console.print(
        f"+ images that {named[0][0]} got wrong and the run right; - the other way; "
        "p: McNemar's test.\n"
    )
    if several:
        console.print(_seeds(groups))
    for group in groups[1:]:
        said = (
            comparison.apart(groups[0], group)
            if several
            else comparison.verdict(group.members[0])
        )
        console.print(Text(f"{group.letter} beside A: {said}"))
    console.print()
    console.print(_classes(first, groups))
    recipes = list(dict.fromkeys(each.run.config["recipe"] for each in found))
    for other in recipes[1:]:
        print(f"What differs: kerascnn diff {recipes[0]} {other}")


def _runs(first: Beside, named: list[tuple[str, Beside]]) -> Table:
    """Return the table of the runs."""
    from rich.table import Table
    from rich.text import Text

    title = f"{first.run.config['data']['name']}, {len(first.outcome):,} images"
    table = Table(title=title, title_justify="left")
    for head in ("", "accuracy", "95 %", "points", "+", "-", "p"):
        table.add_column(head, justify="right" if head else "left")
    for name, each in named:
        low, high = each.interval
        cells = [name, f"{each.accuracy:.2%}", f"{low:.1%} to {high:.1%}"]
        if each is not first:
            gap = 100 * (each.accuracy - first.accuracy)
            counts = f"{len(each.gained)}", f"{len(each.lost)}"
            cells += [f"{gap:+.2f}", *counts, f"{each.chance:.2g}"]
        table.add_row(*map(Text, cells))
    return table


def _seeds(groups: list[Group]) -> Table:
    """Return the table of what the seeds of each case come to."""
    from rich.table import Table
    from rich.text import Text

    from kerascnn.page import comparison
    from kerascnn.report import intervals

    table = Table(title="mean over the seeds", title_justify="left")
    for head in ("", "recipe", "seeds", "mean", "deviation", "95 % of the mean"):
        word = head in ("", "recipe")
        table.add_column(head, justify="left" if word else "right", no_wrap=not word)
    for group in groups:
        deviation = comparison.deviation(group)
        between = intervals.interval(group.accuracies)
        mean = sum(group.accuracies) / len(group.members)
        cells = [group.letter, comparison.label(group.members[0].run)]
        cells += [f"{len(group.members)}", f"{mean:.2%}"]
        cells.append("–" if deviation is None else f"{100 * deviation:.2f}")
        if between:
            low, high = between[0] - between[1], between[0] + between[1]
            cells.append(f"{low:.2%} to {high:.2%}")
        table.add_row(*map(Text, cells))
    return table


def _classes(first: Beside, groups: list[Group]) -> Table:
    """Return the table of the classes."""
    from rich.table import Table
    from rich.text import Text

    mean = "mean " * any(len(g.members) > 1 for g in groups)
    table = Table(title=f"{mean}accuracy by class", title_justify="left")
    table.add_column("class")
    for group in groups:
        table.add_column(group.letter, justify="right")
    for index, name in enumerate(first.outcome.classes):
        shares = [group.per_class[index] for group in groups]
        changes = [f" {100 * (share - shares[0]):+5.1f}" for share in shares]
        changes[0] = ""
        cells = [f"{s:.1%}{c}" for s, c in zip(shares, changes, strict=True)]
        table.add_row(Text(name), *map(Text, cells))
    return table
