"""The page of `acceleration`, whose tables are rendered from data beside it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kerascnn import acceleration

FOLDER = Path(acceleration.__file__).parent
PAGE = FOLDER / "README.md"


def read(name: str) -> dict[str, dict[str, Any]]:
    """Return the figures of a table; none where nothing has been measured."""
    with contextlib.suppress(FileNotFoundError):
        return json.loads((FOLDER / f"{name}.json").read_text())
    return {}


def write(
    name: str,
    figures: dict[str, dict[str, Any]],
    columns: Sequence[str],
    line: Callable[[str, dict[str, Any]], str],
) -> None:
    """Keep a table's figures, and render it into the page."""
    (FOLDER / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    PAGE.write_text(rendered(PAGE.read_text(), name, figures, columns, line))


def rendered(
    page: str,
    name: str,
    figures: dict[str, dict[str, Any]],
    columns: Sequence[str],
    line: Callable[[str, dict[str, Any]], str],
) -> str:
    """Return the page with the table of these figures between its markers."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, rest = page.split(begin)
    _, tail = rest.split(end)
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [line(each, row) for each, row in figures.items()]
    if not figures:
        lines = ["Not measured yet."]
    return "\n".join((f"{head}{begin}", "", *lines, "", f"{end}{tail}"))
