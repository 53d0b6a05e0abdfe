"""The command `kerascnn lessons`."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from kerascnn import UsageError, text
from kerascnn.cli.report import File, check_file
from kerascnn.process import prepare, settings

NAME = "lessons.html"


@dataclasses.dataclass
class Lessons:
    """List the slides' worked examples, or write them all as one page.

    A lesson by itself: `python -m kerascnn.lessons.padding`, for example.
    """

    html: bool = False
    """Run them all, and write one HTML file that needs no network."""
    out: File = None
    """With --html: the file to write (default: runs/lessons/lessons.html)."""

    def __post_init__(self):
        if self.out is not None and not self.html:
            raise UsageError("--out is for --html: give both.")
        check_file(self.out)

    def __call__(self) -> None:
        # Loaded by name, as recipes are: the rooms that come later import this one.
        shared = importlib.import_module("kerascnn.lessons.page")
        if not self.html:
            _list(shared)
            return
        prepare.prepare_process()
        from kerascnn.page import document, lessons

        with settings.computing():
            shown = [_shown(shared, name, lessons.Lesson) for name in shared.names()]
        if self.out is None:
            shared.make_folder()
        path = shared.FOLDER / NAME if self.out is None else text.expanded(self.out)
        print(document.save(lessons.render(shown), path))


def _shown(shared: Any, name: str, lesson: type) -> Any:
    """Run a lesson, and return what it says and shows."""
    said = shared.text(name)
    text.say(said.title)
    with shared.collected() as kept:
        importlib.import_module(f"kerascnn.lessons.{name}").main()
    return lesson(name, said.title, said.paragraphs, kept.parts, kept.figure)


def _list(shared: Any) -> None:
    """Print each lesson's name and title."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("lesson", no_wrap=True)
    table.add_column("what it shows", overflow="fold")
    for name in shared.names():
        table.add_row(name, Text(shared.text(name).title))
    console = text.console()
    console.print(table)
    console.print(
        "\nOne of them: python -m kerascnn.lessons.padding\n"
        "All as one page: kerascnn lessons --html"
    )
