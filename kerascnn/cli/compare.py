"""The command `kerascnn compare`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kerascnn import UsageError
from kerascnn.process import prepare
from kerascnn.runs import Run
from kerascnn.text import duration, expanded

if TYPE_CHECKING:
    from kerascnn.page.comparison import Beside

# Below this an uneven split of the changed images is taken for more than chance.
CHANCE = 0.05


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
    json: bool = False
    """Print the numbers, and which images changed, as JSON."""

    def __post_init__(self):
        if len(self.runs) < 2:
            raise UsageError("expected two runs or more: `kerascnn compare RUN RUN`.")

    def __call__(self) -> None:
        runs = [Run(expanded(path)) for path in self.runs]
        for run in runs:
            _ = run.result  # where there is none, that is the reason
        prepare.prepare_process()
        from kerascnn.page import comparison

        found = comparison.beside(runs)
        if self.json:
            print(json.dumps([record(each) for each in found], indent=2))
        else:
            show(found)


def record(beside: Beside) -> dict[str, Any]:
    """Return a run's comparison as JSON values."""
    config, result = beside.run.config, beside.run.result
    classes = beside.outcome.classes
    return {
        "run": str(beside.run.folder),
        "recipe": config["recipe"],
        "changed": config["overrides"],
        "seed": config["seed"],
        "epochs": result["epochs"],
        "seconds": result["seconds"],
        "accuracy": beside.accuracy,
        "interval": list(beside.interval),
        "classes": dict(zip(classes, beside.per_class.tolist(), strict=True)),
        "gained": beside.gained.tolist(),
        "lost": beside.lost.tolist(),
        "p": beside.chance,
    }


def show(found: list[Beside]) -> None:
    """Print the runs, what each changes beside the first, and the classes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, first = Console(), found[0]
    images = len(first.outcome)
    title = f"{first.run.config['data']['name']}, {images:,} images"
    table = Table(title=title, title_justify="left")
    for head in (
        "",
        "run",
        "seed",
        "time",
        "accuracy",
        "95 %",
        "points",
        "+",
        "-",
        "p",
    ):
        table.add_column(head, justify="left" if head in ("", "run") else "right")
    for number, each in enumerate(found):
        config, (low, high) = each.run.config, each.interval
        changed = ", ".join(config["overrides"])
        name = config["recipe"] + (f" ({changed})" if changed else "")
        cells = [
            *(_letter(number), name, str(config["seed"])),
            duration(each.run.result["seconds"]),
            f"{each.accuracy:.2%}",
            f"{low:.1%} to {high:.1%}",
        ]
        if number:
            gap = 100 * (each.accuracy - first.accuracy)
            counts = f"{len(each.gained)}", f"{len(each.lost)}"
            cells += [f"{gap:+.2f}", *counts, f"{each.chance:.2g}"]
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(
        f"+ images that {_letter(0)} got wrong and the run right; - the other way; p: "
        "McNemar's test.\n"
    )
    for number, each in enumerate(found[1:], 1):
        console.print(f"{_letter(number)} beside {_letter(0)}: {verdict(each, first)}")
    console.print()
    table = Table(title="accuracy by class", title_justify="left")
    table.add_column("class")
    for number in range(len(found)):
        table.add_column(_letter(number), justify="right")
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


def verdict(each: Beside, first: Beside) -> str:
    """Say in a sentence whether a run is better than the first on these images."""
    gained, lost = len(each.gained), len(each.lost)
    if gained + lost == 0:
        return "they answer alike, right and wrong."
    counts = f"{gained + lost:,} images changed, {gained:,} for the better"
    if each.chance >= CHANCE:
        return f"no difference that chance does not explain ({counts})."
    better = "better" if gained > lost else "worse"
    return (
        f"{better}, beyond what chance explains ({counts}). Another seed of the same "
        "recipe may differ as much: compare several."
    )


def _letter(number: int) -> str:
    return chr(ord("A") + number) if number < 26 else str(number + 1)
