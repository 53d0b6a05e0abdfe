"""All recipes on one screen."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from kerascnn.recipe import Outline


def show(outlines: Sequence[Outline], console: Console | None = None) -> None:
    """Print the recipes in the course's order: lecture by lecture, rung after rung.

    Args:
        outlines: The recipes' outlines.
        console: Where to print; by default standard output.
    """
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("course: test", justify="right", no_wrap=True)
    table.add_column("train", justify="right")
    table.add_column("what it is")
    for item in in_order(outlines):
        figures = (item.course.test, item.course.train)
        test, train = ("-" if value is None else f"{value:.1%}" for value in figures)
        table.add_row(item.name, f"{item.parameters:,}", test, train, item.summary)
    (console or Console()).print(table)


def in_order(outlines: Sequence[Outline]) -> list[Outline]:
    """Sort recipes by lecture, then along the ladder: each follows its `after`."""
    rungs = {item.name: item for item in outlines}

    def depth(item: Outline) -> int:
        before = rungs.get(item.after or "")
        return 0 if before is None else 1 + depth(before)

    def lecture(item: Outline) -> str:
        return item.course.source.partition(",")[0]

    return sorted(outlines, key=lambda o: (lecture(o), o.dataset, depth(o), o.name))
