"""All recipes on one screen, and as JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kerascnn import text
from kerascnn.recipe import Outline
from kerascnn.report import records

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# The columns of the list and the terminal's width from which each is shown: what a
# recipe is needs the room first.
COLUMNS = {"parameters": 100, "test*": 0, "train*": 100, "test": 72, "train": 100}
BARS = 110  # the width from which the climb has bars
STARS = (
    "* accuracy as the course prints it; without a star: as measured by the runs in "
    "the cookbook, after the last epoch, the mean over the seeds that learned "
    "(over all where none did)"
)


@dataclasses.dataclass(frozen=True)
class Rung:
    """A recipe, and what the cookbook's runs of it measured.

    Args:
        item: The recipe.
        runs: The records that count, of all seeds.
    """

    item: Outline
    runs: Sequence[dict[str, Any]]

    def ours(self, split: str = "test") -> tuple[float, float] | None:
        """Mean and sample deviation over the seeds that learned, 0 to 1."""
        return records.accuracy(records.learned(self.runs), split)

    @property
    def gap(self) -> float | None:
        """By how many points ours is above the course's, on the test set."""
        ours, course = self.ours(), self.item.course.test
        return None if ours is None or course is None else 100 * (ours[0] - course)

    @property
    def what(self) -> str:
        """What the recipe is, without its lecture."""
        before = lecture(self.item)
        found = self.item.summary.partition(before)[2].lstrip(",: ")
        return (found or self.item.summary).removesuffix(".")

    @property
    def has_figure(self) -> bool:
        """Whether the course or a run has a test accuracy of it."""
        return self.item.course.test is not None or self.ours() is not None


def rungs(outlines: Sequence[Outline]) -> list[Rung]:
    """Return recipes in the ladder's order, with their records."""
    return [Rung(item, records.measured(item.name)) for item in in_order(outlines)]


def show(outlines: Sequence[Outline], console: Console | None = None) -> None:
    """Print the recipes, lecture by lecture and rung after rung."""
    from rich.table import Table
    from rich.text import Text

    console = console or text.console()
    columns = [name for name, least in COLUMNS.items() if console.width >= least]
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("recipe", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    before = ""
    for rung in rungs(outlines):
        item = rung.item
        if lecture(item) != before:
            before = lecture(item)
            table.add_row()
            table.add_row(Text(before.capitalize(), "bold"))
        ours = {split: rung.ours(split) for split in ("test", "train")}
        cells = {
            "parameters": f"{item.parameters:,}",
            **{f"{split}*": item.course.figure(split) or "-" for split in ours},
            **{
                split: f"{found[0]:.1%}" if found else "-"
                for split, found in ours.items()
            },
        }
        what = rung.what
        if console.width >= 1000 and not what.endswith("?"):
            what += "."
        table.add_row(item.name, *(cells[name] for name in columns), Text(what))
    console.print(table)
    console.print(f"\n{STARS}")
    if len(columns) < len(COLUMNS):
        console.print("A wider terminal shows more columns, and `--json` says all.")


def climb(outlines: Sequence[Outline], console: Console | None = None) -> None:
    """Print the rungs with a figure: what changes, the course's, ours, the gap."""
    from rich.table import Table
    from rich.text import Text

    console = console or text.console()
    bars = console.width >= BARS
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("rung", no_wrap=True)
    for name in ("course", "ours", "gap"):
        table.add_column(name, justify="right", no_wrap=True)
    if bars:
        table.add_column("0 to 100 %", no_wrap=True)
    table.add_column("what changes", overflow="fold")
    before = ""
    for rung in rungs(outlines):
        if not rung.has_figure:
            continue
        if lecture(rung.item) != before:
            before = lecture(rung.item)
            table.add_row()
            table.add_row(Text(before.capitalize(), "bold"))
        ours, course = rung.ours(), rung.item.course
        cells = [course.figure("test") or "-", f"{ours[0]:.1%}" if ours else "-"]
        cells.append("-" if rung.gap is None else f"{rung.gap:+.1f}")
        plain = not (console.encoding or "").startswith("utf")
        drawn = [_bar(course.test, ours and ours[0], plain)] if bars else []
        table.add_row(rung.item.name, *cells, *drawn, Text(rung.what))
    console.print(table)
    console.print(
        "\nTest accuracy as the course prints it, ours after the last epoch (the mean "
        "over the seeds that learned, over all where none did), and the gap in "
        "percentage points; `kerascnn list` names the recipes without a figure too."
    )
    if bars:
        console.print("The bar is ours; the mark is the course's.")


def _bar(course: float | None, ours: float | None, plain: bool) -> Text:
    """Draw our accuracy as a bar, and the course's as a mark on its line."""
    from rich.text import Text

    full, empty, mark, width = *("#.|" if plain else "█·┃"), 25
    length = round((ours or 0) * width)
    drawn = Text(full * length, "blue").append(empty * (width - length), "dim")
    if course is not None:
        at = min(round(course * width), width - 1)
        drawn = Text.assemble(drawn[:at], (mark, "bold yellow"), drawn[at + 1 :])
    return drawn


def values(outlines: Sequence[Outline]) -> list[dict[str, Any]]:
    """Return the recipes as JSON values; see `kerascnn list --json`."""
    return [value(rung) for rung in rungs(outlines)]


def value(rung: Rung) -> dict[str, Any]:
    """Return a recipe's facts and figures as JSON values."""
    item, kept = rung.item, records.learned(rung.runs)
    ours = {}
    for split in ("test", "train"):
        found = rung.ours(split)
        ours[split] = found and {"mean": found[0], "deviation": found[1]}
    return {
        "name": item.name,
        "lecture": lecture(item),
        "what": rung.what,
        "after": item.after,
        "changes": sorted(item.changes),
        "dataset": item.dataset,
        "parameters": item.parameters,
        "epochs": item.epochs,
        "batch_size": item.batch_size,
        "course": dataclasses.asdict(item.course),
        "seeds": len(kept),
        **ours,
        "gap": rung.gap,
        "peeking_bonus": records.peeking_bonus(kept),
    }


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
