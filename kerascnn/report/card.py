"""A recipe on one screen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kerascnn.recipe import Course, Recipe


# Settings that speak for themselves, and settings that need their name beside them.
PLAIN = (
    *("filters", "kernel_size", "units", "pool_size", "padding", "activation"),
    *("mode", "degrees"),
)
DEFAULTS = ("linear", "valid")
NAMED = ("strides", "rate", "p", "scale", "offset", "ratio")


def show(recipe: Recipe, console: Console | None = None) -> None:
    """Print what a recipe does and why, its layers, its command, the course's figures.

    Args:
        recipe: The recipe.
        console: Where to print; by default standard output.
    """
    console = console or Console()
    title, _, rest = recipe.idea.partition("\n")
    console.print(Text.assemble((recipe.name, "bold"), "  ", title))
    console.print(Markdown(rest))
    console.print()
    console.print(_settings(recipe))
    console.print()
    # Shapes and settings are all that is shown: no weights are drawn.
    with keras.StatelessScope(initialize_variables=False):
        console.print(_layers(recipe.network()))


def course_text(course: Course) -> str:
    """Write the course's figures in one line."""
    figures = [
        f"{split} {value:.1%}"
        for split, value in (("test", course.test), ("train", course.train))
        if value is not None
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
            f"{recipe.epochs} epochs, batches of {recipe.batch_size}{steps}, "
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
    """Write a layer as a student would: its class and what matters of its settings."""
    config = layer.get_config()
    strides = config.get("strides")
    if strides == config.get("pool_size") or set(strides or [1]) == {1}:
        config["strides"] = None
    words = [_text(config[key]) for key in PLAIN if _matters(config.get(key))]
    words += [
        f"{key} {_text(config[key])}" for key in NAMED if _matters(config.get(key))
    ]
    return (
        f"{type(layer).__name__}({', '.join(words)})" if words else type(layer).__name__
    )


def _matters(value: Any) -> bool:
    """Whether a setting says more than Keras's default does."""
    return value is not None and not isinstance(value, bool) and value not in DEFAULTS


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        words = [_text(item) for item in value]
        whole = all(isinstance(item, int) for item in value)
        return " × ".join(words) if whole else f"({', '.join(words)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
