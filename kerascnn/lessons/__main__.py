"""`python -m kerascnn.lessons` lists the lessons."""

import sys

from kerascnn import translations
from kerascnn.cli import parsing
from kerascnn.lessons import page


def main() -> None:
    """Print each lesson's command and what it shows."""
    translation = translations.chosen()
    said = {name: page.text(name, translation) for name in page.names()}
    for name, each in said.items():
        print(f"python -m kerascnn.lessons.{name:20} {each.title}")
    if any(each.language != translation.language for each in said.values()):
        print(translation.say(translations.SOME_UNTRANSLATED))


if __name__ == "__main__":
    sys.exit(parsing.run(main))
