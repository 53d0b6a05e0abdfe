"""`python -m kerascnn.lessons` lists the lessons."""

import ast
import pkgutil
import sys
from pathlib import Path

from kerascnn.cli import parsing


def main() -> None:
    """Print each lesson's command and what it shows."""
    folder = Path(__file__).parent
    for module in pkgutil.iter_modules([str(folder)]):
        if module.name in ("__main__", "page"):
            continue
        text = (folder / f"{module.name}.py").read_text("utf-8")
        summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        print(f"python -m kerascnn.lessons.{module.name:20} {summary}")


if __name__ == "__main__":
    sys.exit(parsing.run(main))
