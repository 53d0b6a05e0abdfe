"""All recipes on one screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kerascnn.recipe import Outline
from kerascnn.report import records


def show(outlines: Sequence[Outline], console: Console | None = None) -> None:
    """Print the recipes, lecture by lecture and rung after rung."""
    table = Table(box=None, pad_edge=False, show_edge=False, expand=True)
    table.add_column("recipe", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("test*", justify="right", no_wrap=True)
    table.add_column("train*", justify="right", no_wrap=True)
    table.add_column("test", justify="right", no_wrap=True)
    table.add_column("train", justify="right", no_wrap=True)
    table.add_column("what it is", no_wrap=True, ratio=1)
    before = ""
    for item in in_order(outlines):
        if lecture(item) != before:
            before = lecture(item)
            table.add_row()
            table.add_row(Text(before.capitalize(), "bold"))
        runs = records.learned(records.measured(item.name))
        ours = [records.accuracy(runs, split) for split in ("test", "train")]
        cells = [item.course.figure(split) or "-" for split in ("test", "train")]
        cells += [f"{our[0]:.1%}" if our else "-" for our in ours]
        # The heading says the lecture, the recipe's name the data.
        what = item.summary.partition(before)[2].lstrip(",: ") or item.summary
        table.add_row(item.name, f"{item.parameters:,}", *cells, Text(what))
    console = console or Console()
    console.print(table)
    console.print(
        "\n* accuracy as the course prints it; without a star: as measured by the runs "
        "in the cookbook, after the last epoch, the mean over the seeds that learned"
    )


def lecture(item: Outline) -> str:
    """Return the lecture that a recipe is from, such as `"lecture 3"`."""
    return item.course.source.partition(",")[0]


def in_order(outlines: Sequence[Outline]) -> list[Outline]:
    """Sort recipes by lecture, and within one so that each follows its `after`."""
    # Several that follow the same one come in the order of their sources.

    ordered: list[Outline] = []

    def climb(item: Outline) -> None:
        ordered.append(item)
        for other in sorted(waiting.pop(item.name, []), key=lambda o: o.course.source):
            climb(other)

    for name in sorted({lecture(item) for item in outlines}):
        rungs = [item for item in outlines if lecture(item) == name]
        here = {item.name for item in rungs}
        waiting: dict[str, list[Outline]] = {}
        for item in rungs:
            if item.after in here:
                waiting.setdefault(str(item.after), []).append(item)
        # Fashion-MNIST before CIFAR-10, as the lectures go.
        first = [item for item in rungs if item.after not in here]
        for item in sorted(first, key=lambda o: (o.dataset != "fashion_mnist", o.name)):
            climb(item)
    return ordered
