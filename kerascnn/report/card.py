"""A recipe on one screen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from kerascnn.recipe import check_parameters
from kerascnn.report import markdown as pieces
from kerascnn.report import records, wording
from kerascnn.translations import UNTRANSLATED, Translation
from kerascnn.without_weights import without_weights

if TYPE_CHECKING:
    import keras

    from kerascnn.recipe import Course, Recipe

LAYERS = ("layer", "output", "parameters")
NOTES = "Of the runs"

_in_english = Translation().say


def show(
    recipe: Recipe,
    console: Console | None = None,
    translation: Translation | None = None,
) -> None:
    """Print what a recipe does and why, its layers, its command, its figures."""
    console = console or Console()
    translation = translation or Translation()
    say = translation.say
    idea = translation.recipe(recipe.name, recipe.idea)
    title, _, rest = (idea or recipe.idea).partition("\n")
    console.print(Text.assemble((recipe.name, "bold"), "  ", title))
    if idea is None:
        console.print(Text(say(UNTRANSLATED), "italic"))
    console.print(Markdown(rest))
    if notes := records.notes(recipe.name):
        console.print(Markdown(f"## {say(NOTES)}\n\n{notes}"))
    console.print()
    grid = Table.grid(padding=(0, 2))
    for name, value in _settings(recipe, say):
        grid.add_row(Text(say(name), "bold"), Text(value))
    console.print(grid)
    console.print()
    *rows, total = _layers(recipe)
    table = Table(title=say("network"), title_justify="left", show_footer=True)
    for head, foot in zip(LAYERS, total, strict=True):
        table.add_column(say(head), footer=say(foot))
    table.columns[-1].justify = "right"
    for row in rows:
        table.add_row(*row)
    console.print(table)


def values(recipe: Recipe) -> dict[str, Any]:
    """Return what `show` prints as JSON values; see `kerascnn show --json`."""
    *layers, _ = _layers(recipe)
    rows = [
        {"layer": layer, "output": output, "parameters": _whole(parameters)}
        for layer, output, parameters in layers
    ]
    return {
        "name": recipe.name,
        "idea": recipe.idea,
        "notes": records.notes(recipe.name) or None,
        "course": dataclasses.asdict(recipe.course),
        "ours": measured(recipe.name) or None,
        "settings": dict(_settings(recipe)),
        "layers": rows,
        "parameters": sum(row["parameters"] for row in rows),
    }


def _whole(number: str) -> int:
    return int(number.replace(",", "") or 0)


def markdown(recipe: Recipe) -> str:
    """Return what `show` prints as Markdown, for a notebook."""
    title, _, rest = recipe.idea.partition("\n")
    notes = records.notes(recipe.name)
    cells = [[cell.replace("|", "\\|") for cell in row] for row in _layers(recipe)]
    return "\n\n".join(
        [
            f"### {recipe.name}: {title}",
            rest.strip(),
            *([f"#### {NOTES}\n\n{notes}"] if notes else []),
            pieces.table(("", ""), [(f"**{n}**", v) for n, v in _settings(recipe)]),
            pieces.table(LAYERS, cells),
        ]
    )


def course_text(course: Course, say: Callable[..., str] = _in_english) -> str:
    """Write the course's figures in one line."""
    figures = [
        f"{say(split)} {figure}"
        for split in ("test", "train")
        if (figure := course.figure(split)) is not None
    ]
    words = [say(course.says or "no figure")]
    return ", ".join(figures or words) + f" ({say(course.source)})"


def measured(name: str, say: Callable[..., str] = _in_english) -> str:
    """Write in one line what the cookbook's runs of a recipe measured; empty: none."""
    runs = records.learned(records.measured(name))
    figures = []
    for split in ("test", "train"):
        if found := records.accuracy(runs, split):
            spread = f" ± {100 * found[1]:.2f}" * (len(runs) > 1)
            figures.append(f"{say(split)} {100 * found[0]:.2f}{spread}%")
    if not figures:
        return ""
    several = "s" * (len(runs) > 1)
    seeds = say(f" after the last epoch ({{seeds}} seed{several})", seeds=len(runs))
    bonus = records.peeking_bonus(runs)
    peeking = ""
    if bonus is not None:
        peeking = say("; peeking bonus {points} points", points=f"{100 * bonus:+.2f}")
    return ", ".join(figures) + seeds + peeking


def _settings(
    recipe: Recipe, say: Callable[..., str] = _in_english
) -> list[tuple[str, str]]:
    from kerascnn import optim

    optimizer = recipe.optimizer()
    rate = optim.shown_rate(optimizer)
    rate = "" if rate is None else say(" at {rate}", rate=f"{float(rate):g}")
    steps = say(", the last partial one dropped") if recipe.drop_last else ""
    smoothed = recipe.label_smoothing
    smoothed = (
        say(", labels smoothed by {share}", share=f"{smoothed:g}") if smoothed else ""
    )
    epochs = say(
        "1 epoch" if recipe.epochs == 1 else "{epochs} epochs", epochs=recipe.epochs
    )
    batches = say(", batches of {images}", images=recipe.batch_size)
    seen = getattr(recipe.views, "__name__", say("a function of the recipe's"))
    return [
        ("course", course_text(recipe.course, say)),
        *([("ours", ours)] if (ours := measured(recipe.name, say)) else []),
        ("data", recipe.dataset),
        ("transform", " -> ".join(_call(layer) for layer in recipe.transform())),
        (
            "training",
            f"{epochs}{batches}{steps}, {type(optimizer).__name__}{rate}{smoothed}",
        ),
        *(
            [("views", say("{function}, at the end", function=seen))]
            if recipe.views
            else []
        ),
        (
            "after",
            recipe.after or say("nothing: the ladder, or a branch of it, starts here"),
        ),
        ("changes", ", ".join(sorted(recipe.changes)) or "-"),
        ("command", recipe.command),
    ]


def _layers(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Return a row for each layer, of `LAYERS`, and the total."""
    model = without_weights(recipe.network)
    check_parameters(recipe, model)
    rows = []
    for layer in model.layers:
        shape = " × ".join(str(n) for n in layer.output.shape[1:])
        parameters = sum(math.prod(w.shape) for w in layer.trainable_weights)
        rows.append((_call(layer), shape, f"{parameters:,}" if parameters else ""))
    total = sum(math.prod(w.shape) for w in model.trainable_weights)
    return [*rows, ("trainable parameters", "", f"{total:,}")]


def _call(layer: keras.layers.Layer) -> str:
    return wording.call(type(layer).__name__, layer.get_config())
