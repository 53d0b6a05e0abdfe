"""The command `kerascnn lessons`."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from kerascnn import UsageError, text, translations
from kerascnn.cli.recipes import Language
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
    lang: Language = None
    """The language of titles and texts, English or Vietnamese; tables and figures are
    English (default: KERASCNN_LANG of the environment, else en)."""

    def __post_init__(self):
        self._translation = translations.chosen(self.lang)
        if self.out is not None and not self.html:
            raise UsageError("--out is for --html: give both.")
        check_file(self.out)

    def __call__(self) -> None:
        # Loaded by name, as recipes are: the rooms that come later import this one.
        shared = importlib.import_module("kerascnn.lessons.page")
        if not self.html:
            _list(shared, self._translation)
            return
        prepare.prepare_process()
        from kerascnn.page import document, lessons

        with settings.computing():
            shown = [
                _shown(shared, name, lessons.Lesson, self._translation)
                for name in shared.names()
            ]
        if self.out is None:
            shared.make_folder()
        path = shared.FOLDER / NAME if self.out is None else text.expanded(self.out)
        print(document.save(lessons.render(shown, self._translation), path))


def _shown(
    shared: Any, name: str, lesson: type, translation: translations.Translation
) -> Any:
    """Run a lesson, and return what it says and shows."""
    said = shared.text(name, translation)
    text.say(said.title)
    with shared.collected() as kept:
        importlib.import_module(f"kerascnn.lessons.{name}").main()
    return lesson(
        *(name, said.title, said.paragraphs, kept.parts, kept.figure, said.language)
    )


def _list(shared: Any, translation: translations.Translation) -> None:
    """Print each lesson's name and title."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False)
    say = translation.say
    table.add_column(say("lesson"), no_wrap=True)
    table.add_column(say("what it shows"), overflow="fold")
    said = {name: shared.text(name, translation) for name in shared.names()}
    for name, each in said.items():
        table.add_row(name, Text(each.title))
    console = text.console()
    console.print(table)
    if any(each.language != translation.language for each in said.values()):
        console.print(f"\n{say(translations.SOME_UNTRANSLATED)}")
    console.print(
        f"\n{say('One of them')}: python -m kerascnn.lessons.padding\n"
        f"{say('All as one page')}: kerascnn lessons --html"
    )
