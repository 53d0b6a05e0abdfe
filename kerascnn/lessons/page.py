"""What the lessons share: their options, what they say, a table, a figure.

A lesson ends in

    def main(arguments: Sequence[str] = ()) -> None:
        path = page.begin("batch_norm", arguments)
        page.table(title, columns, rows)
        page.save(figure, path)


    if __name__ == "__main__":
        page.run(main)
"""

from __future__ import annotations

import ast
import contextlib
import os
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kerascnn import UsageError, translations
from kerascnn.cli import parsing
from kerascnn.process import settings
from kerascnn.process import signals
from kerascnn.text import console
from kerascnn.translations import UNTRANSLATED, Translation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One colour for each role in every figure; the three differ to colour-blind eyes too.
BLUE, ORANGE, GREEN, GREY = "#1b6ca8", "#d95f02", "#1b9e77", "#8c8c8c"


FOLDER = Path("runs", "lessons")
NO_LESSONS = ("__main__", "page")
# A paragraph of a lesson's text with one of these words says what it shows.
SHOWS = re.compile(r"\b(table|figure)\b")
WIDEST = 88  # letters in a line of prose


@dataclass(frozen=True)
class Options:
    """The command line of a lesson."""

    out: Path | None = None
    """Where the figure goes, a PNG (default: runs/lessons/NAME.png)."""
    lang: str | None = None
    """The language of the text, en or vi (default: KERASCNN_LANG of the environment,
    else en)."""


@dataclass(frozen=True)
class Text:
    """What a lesson says, its file's docstring.

    Args:
        title: Its first line, such as `"Padding, lecture 2: what becomes of ...?"`.
        paragraphs: The others, a line each.
        shows: Those on what the tables and the figure show.
        language: `"en"`, or another that it is translated to.
    """

    title: str
    paragraphs: Sequence[str]
    shows: Sequence[str]
    language: str = translations.ENGLISH


@dataclass
class Shown:
    """What a lesson shows, in place of printing it.

    Args:
        parts: A table as title, columns and rows; a line of text.
        figure: Its figure, once it is drawn.
    """

    parts: list[tuple[str, Sequence[str], list[list[str]]] | str]
    figure: Figure | None = None


_shown: Shown | None = None


def names() -> list[str]:
    """Return the names of the lessons, in alphabetical order."""
    found = pkgutil.iter_modules([str(Path(__file__).parent)])
    return sorted(each.name for each in found if each.name not in NO_LESSONS)


def docstring(name: str) -> str:
    """Return the docstring of a lesson's file, its text in English."""
    source = Path(__file__).with_name(f"{name}.py").read_text("utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def text(name: str, translation: Translation | None = None) -> Text:
    """Return what a lesson says: in English where it is not translated."""
    english = docstring(name)
    title, *prose = _paragraphs(english)
    about = [n for n, each in enumerate(prose) if SHOWS.search(each)]
    language = translations.ENGLISH
    if translation and (translated := translation.lesson(name, english)):
        title, *prose = _paragraphs(translated)
        language = translation.language
    return Text(title, prose, [prose[n] for n in about], language)


def _paragraphs(written: str) -> list[str]:
    """Return a text's paragraphs without line ends, and without its commands."""
    parts = written.split("\n\n")
    return [" ".join(each.split()) for each in parts if not each.startswith("    ")]


@contextlib.contextmanager
def collected() -> Iterator[Shown]:
    """Keep what the lesson in the block shows, and print and save nothing."""
    global _shown
    before, _shown = _shown, Shown([])
    try:
        yield _shown
    finally:
        _shown = before


def begin(name: str, arguments: Sequence[str]) -> Path:
    """Read a lesson's command line, and print what its tables and figure will show.

    Args:
        name: The lesson: `"batch_norm"`.
        arguments: The words after the program's name.

    Returns:
        Where to save the figure.

    Raises:
        UsageError: The words do not fit, or no figure can be saved there.
    """
    options = parsing.parse(Options, arguments, f"python -m kerascnn.lessons.{name}")
    translation = translations.chosen(options.lang)
    path = _path(name, options)
    if _shown is None:
        said = text(name, translation)
        width = min(console().width, WIDEST)
        console().print(textwrap.fill(said.title, width), style="bold", highlight=False)
        if said.language != translation.language:
            print(translation.say(UNTRANSLATED))
        for paragraph in said.shows:
            print(f"\n{textwrap.fill(paragraph, width, break_on_hyphens=False)}")
        print()
    return path


def _path(name: str, options: Options) -> Path:
    path = options.out or FOLDER / f"{name}.png"
    if _shown is not None:
        return path
    if path.suffix.lower() != ".png":
        raise UsageError(f"--out {path}: expected a file that ends in .png.")
    if options.out is None:
        make_folder()
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}; make it.")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"--out {path}: it cannot be written; choose another place.")
    return path


def make_folder() -> None:
    """Make the folder in which figures lie by default.

    Raises:
        UsageError: It can't be made.
    """
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder {FOLDER} can't be made ({error.strerror or error}): name a "
            "file with --out."
        ) from error


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
    cells = [[str(cell) for cell in row] for row in rows]
    if _shown is not None:
        _shown.parts.append((title, columns, cells))
        return
    from rich import table as tables
    from rich.text import Text

    grid = tables.Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="right" if index else "left")
    for row in cells:
        # Text, because rich reads "[2, 3]" in a plain string as a style.
        grid.add_row(*map(Text, row))
    console().print(grid)


def note(line: str) -> None:
    """Print a line on what a table or a figure leaves out."""
    if _shown is not None:
        _shown.parts.append(line)
    else:
        print(line)


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
    if _shown is not None:
        _shown.figure = figure
        return
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
