"""What the lessons share: the option `--out`, a table, a figure.

A lesson ends in

    def main(arguments: Sequence[str] = ()) -> None:
        path = page.figure_path("batch_norm", arguments)
        page.table(title, columns, rows)
        page.save(figure, path)


    if __name__ == "__main__":
        page.run(main)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kerascnn import UsageError
from kerascnn.cli import parsing
from kerascnn.process import settings
from kerascnn.process import signals

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One colour for each role in every figure; the three differ to colour-blind eyes too.
BLUE, ORANGE, GREEN, GREY = "#1b6ca8", "#d95f02", "#1b9e77", "#8c8c8c"


@dataclass(frozen=True)
class Options:
    """The command line of a lesson."""

    out: Path | None = None
    """Where the figure goes, a PNG; by default NAME.png in the working directory."""


def figure_path(name: str, arguments: Sequence[str]) -> Path:
    """Read a lesson's command line.

    Args:
        name: The lesson: `"batch_norm"`.
        arguments: The words after the program's name.

    Returns:
        Where to save the figure.

    Raises:
        UsageError: The words do not fit, or no figure can be saved there.
    """
    options = parsing.parse(Options, arguments, f"python -m kerascnn.lessons.{name}")
    path = options.out or Path(f"{name}.png")
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path}: expected a file that ends in .png.")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}; make it.")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"--out {path}: it cannot be written; choose another place.")
    return path


def needs_jax(name: str) -> None:
    """Stop a lesson that takes gradients where Keras runs on another backend.

    Keras has no gradient function of its own that works on every backend.

    Raises:
        UsageError: The backend is not JAX.
    """
    import keras

    backend = keras.config.backend()
    if backend != "jax":
        raise UsageError(
            f"the lesson {name} takes gradients with jax.grad; Keras runs on {backend} "
            f"here: unset KERAS_BACKEND, or set it to jax."
        )


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a small table; the first column is text, the others are right-aligned.

    Args:
        title: One line above the table.
        columns: The headings.
        rows: One sequence of cells each; the lesson rounds its numbers itself.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="right" if index else "left")
    for row in rows:
        # Text, because rich reads "[2, 3]" in a plain string as a style.
        grid.add_row(*(Text(str(cell)) for cell in row))
    Console().print(grid)


def figure(width: float, height: float) -> Figure:
    """Start a figure that needs no screen.

    Args:
        width: In inches, as `height`.

    Returns:
        A matplotlib figure; its layout keeps labels from overlapping.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawing)
    return drawing


def save(figure: Figure, path: Path) -> None:
    """Save a lesson's figure and say where it is.

    Raises:
        UsageError: The file cannot be written.
    """
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise UsageError(
            f"the figure {path} cannot be written ({error.strerror}): choose another "
            f"place with --out."
        ) from error
    print(f"figure: {path}")


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a lesson from the command line, then exit the process.

    Args:
        main: The lesson's `main`, a function of the words after the program's name.

    Raises:
        SystemExit: Always; code 0, 2 after a user's mistake, 130 after Ctrl-C, 143
            after SIGTERM.
    """
    signals.stop_quietly()
    lesson = settings.computing()(main)
    sys.exit(parsing.run(lambda: lesson(sys.argv[1:])))
