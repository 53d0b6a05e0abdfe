"""`python -m kerascnn.lessons` lists the lessons."""

import sys

from kerascnn.cli import parsing
from kerascnn.lessons import page


def main() -> None:
    """Print each lesson's command and what it shows."""
    for name in page.names():
        print(f"python -m kerascnn.lessons.{name:20} {page.text(name).title}")


if __name__ == "__main__":
    sys.exit(parsing.run(main))
