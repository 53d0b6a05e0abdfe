"""Pieces of Markdown that the cookbook is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

END = "<!-- end -->"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, without a line end after it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def card(name: str) -> str:
    """Return a link from `recipes/README.md` to a recipe's card."""
    return f"[{name}]({name}/README.md)"


def between(page: str, begin: str, text: str) -> str:
    """Return a page with a text between a marker and `END`, if it has the marker."""
    if begin not in page:
        return page
    head, _, rest = page.partition(begin)
    _, mark, tail = rest.partition(END)
    return f"{head}{begin}{text}{mark}{tail}"
