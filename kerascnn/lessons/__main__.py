"""`python -m kerascnn.lessons` lists the lessons."""

import sys

from kerascnn import translations
from kerascnn.cli import parsing
from kerascnn.lessons import page


def main() -> None:
    """Print each lesson's command and what it shows."""
    translation = translations.chosen()
    for name in page.names():
        title = page.text(name, translation).title
        print(f"python -m kerascnn.lessons.{name:20} {title}")


if __name__ == "__main__":
    sys.exit(parsing.run(main))
