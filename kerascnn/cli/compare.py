"""The command `kerascnn compare`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kerascnn import UsageError
from kerascnn.cli.report import File, check_file
from kerascnn.process import prepare
from kerascnn.runs import Run
from kerascnn.text import duration, expanded

if TYPE_CHECKING:
    from kerascnn.page.comparison import Beside


@dataclasses.dataclass
class Compare:
    """Compare finished runs on the same images: accuracy, classes, image by image.

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
    """Print the numbers, and which images changed, as JSON."""

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
            print(json.dumps([record(each) for each in found], indent=2))
        else:
            show(found)
        if self.out is not None:
            path = document.save(comparison.render(found), expanded(self.out))
            if not self.json:
                print(path)


def record(beside: Beside) -> dict[str, Any]:
    """Return a run's comparison as JSON values."""
    config, result = beside.run.config, beside.run.result
    shares = [None if share != share else share for share in beside.per_class.tolist()]
    return {
        "run": str(beside.run.folder),
        "recipe": config["recipe"],
        "changed": config["overrides"],
        "seed": config["seed"],
        "epochs": result["epochs"],
        "seconds": result["seconds"],
        "accuracy": beside.accuracy,
        "interval": list(beside.interval),
        "classes": dict(zip(beside.outcome.classes, shares, strict=True)),
        "gained": beside.gained.tolist(),
        "lost": beside.lost.tolist(),
        "p": beside.chance,
    }


def show(found: list[Beside]) -> None:
    """Print the runs, what each changes beside the first, and the classes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kerascnn.page import comparison

    console, first = Console(), found[0]
    images, letters = len(first.outcome), [*map(comparison.letter, range(len(found)))]
    for name, each in zip(letters, found, strict=True):
        seed, folder = each.run.config["seed"], each.run.folder
        took = duration(each.run.result["seconds"])
        print(f"{name}  {comparison.label(each.run)}, seed {seed}, {took}: {folder}")
    title = f"{first.run.config['data']['name']}, {images:,} images"
    table = Table(title=title, title_justify="left")
    for head in ("", "accuracy", "95 %", "points", "+", "-", "p"):
        table.add_column(head, justify="right" if head else "left")
    for name, each in zip(letters, found, strict=True):
        low, high = each.interval
        cells = [name, f"{each.accuracy:.2%}", f"{low:.1%} to {high:.1%}"]
        if each is not first:
            gap = 100 * (each.accuracy - first.accuracy)
            counts = f"{len(each.gained)}", f"{len(each.lost)}"
            cells += [f"{gap:+.2f}", *counts, f"{each.chance:.2g}"]
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(
        "+ images that A got wrong and the run right; - the other way; p: McNemar's "
        "test.\n"
    )
    for name, each in zip(letters[1:], found[1:], strict=True):
        console.print(f"{name} beside A: {comparison.verdict(each)}")
    console.print()
    table = Table(title="accuracy by class", title_justify="left")
    table.add_column("class")
    for name in letters:
        table.add_column(name, justify="right")
    for index, name in enumerate(first.outcome.classes):
        shares = [each.per_class[index] for each in found]
        changes = [f" {100 * (share - shares[0]):+5.1f}" for share in shares]
        changes[0] = ""
        cells = [f"{s:.1%}{c}" for s, c in zip(shares, changes, strict=True)]
        table.add_row(Text(name), *map(Text, cells))
    console.print(table)
    recipes = list(dict.fromkeys(each.run.config["recipe"] for each in found))
    for other in recipes[1:]:
        print(f"What differs: kerascnn diff {recipes[0]} {other}")
