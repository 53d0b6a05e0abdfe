"""Texts of recipes and lessons in other languages than English, as data.

`vi.toml` holds Vietnamese: in `recipes` and `lessons` a whole text for each name, with
the hash of the English text that it translates (`of`), and in `words` short texts by
their English. A translation of a text that has changed since is not shown.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kerascnn import UsageError

ENGLISH = "en"
VARIABLE = "KERASCNN_LANG"
# What a reader is told where a text is shown in English for want of a translation.
UNTRANSLATED = "This text has no translation yet, and is shown in English."
SOME_UNTRANSLATED = "What has no translation yet is shown in English."

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Translation:
    """The texts of one language; without any, English.

    Args:
        language: Its code, such as `"vi"`.
        recipes: By a recipe's name: `text`, and `of`, the `digest` of its English.
        lessons: The same by a lesson's name.
        words: Short texts by their English; values stand in braces in both.
    """

    language: str = ENGLISH
    recipes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    lessons: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def recipe(self, name: str, english: str) -> str | None:
        """Return what a recipe's docstring says; `None` where nobody translated it."""
        return self._text(self.recipes, name, english)

    def lesson(self, name: str, english: str) -> str | None:
        """Return what a lesson's docstring says; `None` where nobody translated it."""
        return self._text(self.lessons, name, english)

    def say(self, english: str, **values: Any) -> str:
        """Return a short text with values filled in; untranslated, in English."""
        said = self.words.get(english, english)
        return said.format(**values) if values else said

    def _text(
        self, texts: Mapping[str, Mapping[str, str]], name: str, english: str
    ) -> str | None:
        if self.language == ENGLISH:
            return english
        found = texts.get(name)
        if found is None or found["of"] != digest(english):
            return None
        return found["text"].strip()


def digest(english: str) -> str:
    """Return 12 hexadecimal digits of a text's SHA-256; line breaks do not count."""
    return hashlib.sha256(" ".join(english.split()).encode()).hexdigest()[:12]


def languages() -> list[str]:
    """Return the codes of the languages that there are texts in, English first."""
    return [ENGLISH, *sorted(file.stem for file in _FOLDER.glob("*.toml"))]


def chosen(asked: str | None = None) -> Translation:
    """Return the texts of a language: `asked`, else `KERASCNN_LANG`'s, else English.

    Raises:
        UsageError: There are no texts in that language.
    """
    language = asked or os.environ.get(VARIABLE) or ENGLISH
    if language not in languages():
        where = "--lang" if asked else VARIABLE
        raise UsageError(
            f"{where} {language!r}: there are no texts in that language: expected "
            f"{' or '.join(languages())}."
        )
    if language == ENGLISH:
        return Translation()
    texts = tomllib.loads((_FOLDER / f"{language}.toml").read_text("utf-8"))
    return Translation(language, **texts)
