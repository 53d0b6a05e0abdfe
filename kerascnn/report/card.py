"""A recipe on one screen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import keras
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from kerascnn.recipe import check_parameters
from kerascnn.report import records, wording
from kerascnn.without_weights import without_weights

if TYPE_CHECKING:
    from kerascnn.recipe import Course, Recipe


def show(recipe: Recipe, console: Console | None = None) -> None:
    """Print what a recipe does and why, its layers, its command, its figures."""
    console = console or Console()
    title, _, rest = recipe.idea.partition("\n")
    console.print(Text.assemble((recipe.name, "bold"), "  ", title))
    console.print(Markdown(rest))
    if notes := records.notes(recipe.name):
        console.print(Markdown(f"## Of the runs\n\n{notes}"))
    console.print()
    console.print(_settings(recipe))
    console.print()
    network = without_weights(recipe.network)
    check_parameters(recipe, network)
    console.print(_layers(network))


def course_text(course: Course) -> str:
    """Write the course's figures in one line."""
    figures = [
        f"{split} {figure}"
        for split in ("test", "train")
        if (figure := course.figure(split)) is not None
    ]
    return ", ".join(figures or [course.says or "no figure"]) + f" ({course.source})"


def _settings(recipe: Recipe) -> Table:
    optimizer = recipe.optimizer()
    rate = optimizer.learning_rate
    rate = "" if rate is None else f" at {float(rate):g}"
    steps = ", the last partial one dropped" if recipe.drop_last else ""
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("course", course_text(recipe.course)),
        ("data", recipe.dataset),
        ("transform", " -> ".join(_call(layer) for layer in recipe.transform())),
        (
            "training",
            f"{recipe.epochs} epoch{'s' * (recipe.epochs != 1)}, "
            f"batches of {recipe.batch_size}{steps}, "
            f"{type(optimizer).__name__}{rate}",
        ),
        ("after", recipe.after or "nothing: the ladder starts here"),
        ("changes", ", ".join(sorted(recipe.changes)) or "-"),
        ("command", recipe.command),
    ):
        table.add_row(Text(name, "bold"), Text(value))
    return table


def _layers(model: keras.Model) -> Table:
    table = Table(title="network", title_justify="left", show_footer=True)
    total = sum(math.prod(w.shape) for w in model.trainable_weights)
    table.add_column("layer", footer="trainable parameters")
    table.add_column("output")
    table.add_column("parameters", justify="right", footer=f"{total:,}")
    for layer in model.layers:
        shape = " × ".join(str(n) for n in layer.output.shape[1:])
        parameters = sum(math.prod(w.shape) for w in layer.trainable_weights)
        table.add_row(_call(layer), shape, f"{parameters:,}" if parameters else "")
    return table


def _call(layer: keras.layers.Layer) -> str:
    return wording.call(type(layer).__name__, layer.get_config())
