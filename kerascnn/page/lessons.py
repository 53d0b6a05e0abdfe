"""The page of the lessons: all of them in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from kerascnn.page import document
from kerascnn.translations import ENGLISH, UNTRANSLATED, Translation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Where a title names its lecture: `, lecture 2`, `, lectures 3 and 4`, `, bài giảng 1`.
_LECTURE = re.compile(r", [^\d,:]+ (\d)")
DPI = 110  # a figure of 13 inches is sharp on a screen of twice its width


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a lesson says and shows.

    Args:
        name: Its module's name.
        title: Such as `"Padding, lecture 2: what becomes of the border?"`.
        paragraphs: What it says.
        parts: A table as title, columns and rows; a line of text.
        figure: Its figure.
        language: That of title and paragraphs.
    """

    name: str
    title: str
    paragraphs: Sequence[str]
    parts: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]] | str]
    figure: Figure
    language: str = ENGLISH

    @property
    def subject(self) -> str:
        """The title without lecture and question."""
        return self.title[: found.start()] if (found := self._found) else self.title

    @property
    def lecture(self) -> int:
        """The number of the lecture, the first of several."""
        return int(found[1]) if (found := self._found) else 0

    @property
    def question(self) -> str:
        """What the lesson asks."""
        asked = self.title.partition(": ")[2]
        return asked[:1].upper() + asked[1:]

    @property
    def _found(self) -> re.Match[str] | None:
        return _LECTURE.search(self.title)


def render(lessons: Sequence[Lesson], translation: Translation | None = None) -> str:
    """Return the page's HTML, the lessons lecture by lecture."""
    translation = translation or Translation()
    ordered = sorted(lessons, key=lambda lesson: (lesson.lecture, lesson.name))
    groups = [
        (number, [_shown(lesson) for lesson in group])
        for number, group in itertools.groupby(ordered, lambda each: each.lecture)
    ]
    return document.filled(
        "lessons.html",
        [],
        groups=groups,
        number=len(lessons),
        language=translation.language,
        say=translation.say,
        untranslated=UNTRANSLATED,
    )


def _shown(lesson: Lesson) -> dict[str, Any]:
    """Return a lesson as the template takes it."""
    tables = [part for part in lesson.parts if not isinstance(part, str)]
    return {
        "name": lesson.name,
        "language": lesson.language,
        "subject": lesson.subject,
        "question": lesson.question,
        "paragraphs": [_prose(each) for each in lesson.paragraphs],
        "tables": [_table(*table) for table in tables],
        "notes": [part for part in lesson.parts if isinstance(part, str)],
        "figure": _picture(lesson.figure),
        "wide": float(lesson.figure.get_size_inches()[0]) > 8,
    }


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Return a table; matrices, which have several lines, keep their spaces."""
    lined = [any("\n" in row[n] for row in rows) for n in range(len(columns))]
    return {"title": title, "columns": columns, "rows": rows, "lined": lined}


def _prose(text: str) -> Markup:
    """Return a paragraph whose words in backticks are code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part)
        for n, part in enumerate(parts)
    )


def _picture(figure: Figure) -> str:
    """Return a figure as the address of a picture inside the page."""
    from PIL import Image

    content = io.BytesIO()
    figure.savefig(content, dpi=DPI, format="png", bbox_inches="tight")
    # Of 256 colours nobody sees that they are no more, and the file is a third.
    with Image.open(content) as drawn:
        few = drawn.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    few.save(packed, format="png", optimize=True)
    smaller = min((content, packed), key=lambda each: each.getbuffer().nbytes)
    return "data:image/png;base64," + base64.b64encode(smaller.getvalue()).decode()
